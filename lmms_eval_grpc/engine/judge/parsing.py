"""Reading judgements: from a judge's words to a verdict or a number, or to the certainty that there is none.

lmms-eval takes whatever it cannot read for "wrong" (or -1), and a "10" for "right". Here that raises
:class:`.failures.JudgeError` ``MALFORMED_JUDGEMENT``. ``compat=True`` reads as lmms-eval does.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lmms_eval_grpc.engine.judge.failures import JudgeError

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PLAIN_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_LABELLED_BIT = re.compile(
    r"\b(?:score|answer|result|judge?ment|verdict|rating|output|correctness)\b\W{0,10}(?:is\W{1,5})?([01])(?:\.0+)?(?![\w.])",
    re.IGNORECASE,
)
_NAMED_SCORE = re.compile(r"\bassistant\s*([12])\b\D{0,20}?(-?\d+(?:\.\d+)?)", re.IGNORECASE)
_YES_OR_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


def parse_binary(text: str, output_format: str = "0/1", *, compat: bool = False) -> int | bool:
    """1 or 0 for the formats ``0/1`` and ``1/0``, a truth value for any other, which means yes or no.

    Read is a lone 0 or 1, one behind a label such as ``Score:``, or one that is the only number there is; of words, the
    first, or the only one. Raises JudgeError.
    """
    if output_format in ("0/1", "1/0"):
        return int("1" in text) if compat else _parse_bit(text)
    return text.strip().lower().startswith("yes") if compat else _parse_yes_or_no(text)


def parse_score(text: str, score_range: tuple[float, float] | None = None, *, compat: bool = False) -> float:
    """The first number, cut to ``score_range``. Raises JudgeError where there is none."""
    numbers = _NUMBER.findall(text)
    if not numbers:
        if compat:
            return score_range[0] if score_range else 0.0
        raise _malformed(text, "a number")
    score = float(numbers[0])
    return max(score_range[0], min(score, score_range[1])) if score_range else score


def parse_comparative(
    text: str, score_range: tuple[float, float] | None = None, *, compat: bool = False
) -> tuple[float, float]:
    """The two scores in the first line, as ``8 9``, ``8, 9`` or ``Assistant 1: 8, Assistant 2: 9``.

    Raises JudgeError for anything else, or for a score outside ``score_range``.
    """
    line = text.strip().partition("\n")[0]
    if compat:
        numbers = _NUMBER.findall(line.replace(",", " ").replace(";", " "))
        return (float(numbers[0]), float(numbers[1])) if len(numbers) >= 2 else (-1.0, -1.0)
    named = dict(_NAMED_SCORE.findall(line))
    found = [named["1"], named["2"]] if named.keys() == {"1", "2"} else _PLAIN_NUMBER.findall(line)
    if len(found) != 2:
        raise _malformed(text, "two scores in its first line")
    first, second = float(found[0]), float(found[1])
    if score_range and not all(score_range[0] <= score <= score_range[1] for score in (first, second)):
        raise _malformed(text, f"two scores from {score_range[0]} to {score_range[1]}")
    return first, second


def parse_json(text: str, *, compat: bool = False) -> dict[str, Any]:
    """The first JSON object in ``text``, whatever stands around it. Raises JudgeError where there is none."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, _ = decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            start = text.find("{", start + 1)
            continue
        return dict(value)
    if compat:
        return {}
    raise _malformed(text, "a JSON object")


def parse_correctness(text: str) -> bool:
    """Whether a verifier's judge says the answer is right: CORRECT, INCORRECT or NOT_ATTEMPTED, yes or no, 1 or 0.

    Raises JudgeError for anything else.
    """
    upper = text.upper()
    if "INCORRECT" in upper or "NOT_ATTEMPTED" in upper or re.search(r"\bNOT\s+CORRECT\b", upper):
        return False
    if "CORRECT" in upper:
        return True
    if found := re.search(r"\b(true|false)\b", text, re.IGNORECASE):
        return str(found[1]).lower() == "true"
    if _YES_OR_NO.search(text):
        return _parse_yes_or_no(text)
    return bool(_parse_bit(text))


def _parse_bit(text: str) -> int:
    labelled = {match[1] for match in _LABELLED_BIT.finditer(text)}
    if len(labelled) == 1:
        return int(labelled.pop())
    numbers = set(_PLAIN_NUMBER.findall(text))
    bits = {_BITS[number] for number in numbers if number in _BITS}
    if len(bits) != 1 or not numbers <= _BITS.keys():
        raise _malformed(text, "0 or 1")
    return bits.pop()


def _parse_yes_or_no(text: str) -> bool:
    words = [word.lower() for word in _YES_OR_NO.findall(text)]
    first = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    if first:
        return str(first[1]).lower() == "yes"
    if len(set(words)) != 1:
        raise _malformed(text, "yes or no")
    return bool(words[0] == "yes")


def _malformed(text: str, wanted: str) -> JudgeError:
    return JudgeError("MALFORMED_JUDGEMENT", f"the judge was to answer {wanted}, but said {text.strip()[:200]!r}")
