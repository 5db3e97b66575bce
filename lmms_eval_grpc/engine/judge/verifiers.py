"""Verifiers: whether an extracted answer is right, by rule, by a judge, or by one after the other."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmms_eval_grpc.engine.judge import parsing
from lmms_eval_grpc.engine.judge.protocol import Request, ServerConfig
from lmms_eval_grpc.engine.judge.server import get_server

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass
class VerifyResult:
    """A verdict."""

    score: float
    """0 to 1."""
    is_correct: bool
    raw_output: str = ""
    """What the verifier said, for people."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """``confident: False`` lets a composite verifier go on to the next."""


class Verifier(Protocol):
    """Anything that gives a verdict. Raises JudgeError where there is none."""

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult: ...


class ExactMatchVerifier:
    """Equal text. A text that differs may still be right, so only a match is sure."""

    def __init__(self, ignore_case: bool = True, strip: bool = True) -> None:
        self.ignore_case = ignore_case
        self.strip = strip

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        given, wanted = self._normal(prediction), self._normal(ground_truth)
        return _verdict(given == wanted, f"exact_match: {given!r} vs {wanted!r}", confident=given == wanted)

    __call__ = verify

    def _normal(self, text: str) -> str:
        text = text.strip() if self.strip else text
        return text.lower() if self.ignore_case else text


class ContainsVerifier:
    """The right answer occurs in the given one; as sure as an exact match."""

    def __init__(self, ignore_case: bool = True) -> None:
        self.ignore_case = ignore_case

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        given, wanted = prediction, ground_truth
        if self.ignore_case:
            given, wanted = given.lower(), wanted.lower()
        return _verdict(wanted in given, f"contains: {wanted!r} in {given!r}", confident=wanted in given)

    __call__ = verify


class MCQMatchVerifier:
    """Equal letters of options, as ``A``, ``(A)`` or ``A.``; sure as soon as the given answer is a letter."""

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        given, wanted = (text.strip().upper().strip("(). ") for text in (prediction, ground_truth))
        is_letter = re.fullmatch(r"[A-Z]", given) is not None
        return _verdict(given == wanted, f"mcq_match: {given!r} vs {wanted!r}", confident=is_letter)

    __call__ = verify


class NumericToleranceVerifier:
    """Equal numbers within a tolerance; sure as soon as both are numbers."""

    def __init__(self, rel_tol: float = 1e-3, abs_tol: float = 1e-6) -> None:
        self.rel_tol = rel_tol
        self.abs_tol = abs_tol

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        given, wanted = _number(prediction), _number(ground_truth)
        if given is None or wanted is None:
            return _verdict(False, f"numeric: no number in {prediction!r} or {ground_truth!r}", confident=False)
        correct = math.isclose(given, wanted, rel_tol=self.rel_tol, abs_tol=self.abs_tol)
        return _verdict(correct, f"numeric: {given} vs {wanted} (rel_tol={self.rel_tol})", confident=True)

    __call__ = verify


class CompositeVerifier:
    """The first sure verdict, else the last one."""

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        if not verifiers:
            raise ValueError("a composite verifier needs at least one verifier")
        self.verifiers = list(verifiers)

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        for verifier in self.verifiers:
            result = verifier.verify(question, prediction, ground_truth, **kwargs)
            if result.metadata.get("confident", True):
                break
        return result

    __call__ = verify


class OpenAIVerifier:
    """Asks a judge. A failed judgement raises JudgeError; lmms-eval's makes it a wrong answer with a mark.

    ``judge_type`` is ``binary`` (right or wrong) or ``comparative`` (the answer's score against that of the right one,
    or of ``reference_response``). With a ``custom_prompt`` (a template with question, prediction and ground_truth, or a
    function of them) the reply is read by ``response_parser``, or as ``response_format`` says: ``binary`` or ``score``,
    a number in ``score_range`` that is brought to 0…1 and right from 0.5 on.
    """

    def __init__(
        self,
        model: str = "gpt-4o-2024-11-20",
        api_type: str | None = None,
        judge_type: str = "binary",
        custom_prompt: str | Callable[..., str] | None = None,
        response_format: str = "binary",
        response_parser: Callable[[str], VerifyResult] | None = None,
        score_range: tuple[float, float] = (0.0, 10.0),
        max_retries: int = 5,
        retry_delay: float = 2.0,
        temperature: float = 0.0,
        max_tokens: int = 1024,
    ) -> None:
        if judge_type not in ("binary", "comparative"):
            raise ValueError(f"judge_type must be binary or comparative, but is {judge_type!r}")
        if response_format not in ("binary", "score"):
            raise ValueError(f"response_format must be binary or score, but is {response_format!r}")
        self.judge_type = judge_type
        self.custom_prompt = custom_prompt
        self.response_format = response_format
        self.response_parser = response_parser
        self.score_range = score_range
        config = ServerConfig(
            model, temperature=temperature, max_tokens=max_tokens, num_retries=max_retries, retry_delay=retry_delay
        )
        self.server = get_server(api_type or os.environ.get("API_TYPE"), config)

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        if self.custom_prompt is not None:
            return self._verify_custom(question, prediction, ground_truth, **kwargs)
        if self.judge_type == "binary":
            output_format = kwargs.get("output_format", "0/1")
            answer = self.server.evaluate_binary(question, ground_truth, prediction, output_format)
            correct = bool(answer["result"])
            return VerifyResult(float(correct), correct, answer["raw_response"], {"model": answer["model"]})
        other = kwargs.get("reference_response", ground_truth)
        answer = self.server.evaluate_comparative(question, prediction, other, images=kwargs.get("images"))
        first, second = answer["scores"]
        marks = {"score_1": first, "score_2": second, "model": answer["model"]}
        return VerifyResult(_share(first, self.score_range), first > second, answer["raw_response"], marks)

    __call__ = verify

    def _verify_custom(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        fields = {"question": question, "prediction": prediction, "ground_truth": ground_truth, **kwargs}
        if callable(self.custom_prompt):
            prompt = self.custom_prompt(question, prediction, ground_truth, **kwargs)
        else:
            prompt = str(self.custom_prompt).format(**fields)
        request = Request(messages=[{"role": "user", "content": prompt}], images=kwargs.get("images"))
        return self.server.ask(request, self._parse)[1]

    def _parse(self, text: str) -> VerifyResult:
        if self.response_parser is not None:
            return self.response_parser(text)
        if self.response_format == "score":
            score = _share(parsing.parse_score(text), self.score_range)
            return VerifyResult(score, score >= 0.5, text)
        correct = parsing.parse_correctness(text)
        return VerifyResult(float(correct), correct, text)


VERIFIERS: Mapping[str, Callable[..., Verifier]] = {
    "exact_match": ExactMatchVerifier,
    "contains": ContainsVerifier,
    "mcq_match": MCQMatchVerifier,
    "numeric": NumericToleranceVerifier,
    "openai": OpenAIVerifier,
    "local": functools.partial(OpenAIVerifier, api_type="local"),
}


def _verdict(correct: bool, said: str, *, confident: bool) -> VerifyResult:
    return VerifyResult(float(correct), correct, said, {"confident": confident})


def _number(text: str) -> float | None:
    cleaned = text.strip().replace(",", "").replace("%", "")
    try:
        return float(cleaned)
    except ValueError:
        numbers = _NUMBER.findall(cleaned)
        return float(numbers[-1]) if numbers else None


def _share(score: float, score_range: tuple[float, float]) -> float:
    """``score`` brought from its range to 0…1."""
    low, high = score_range
    if high <= low:
        return float(score >= high)
    return max(0.0, min(1.0, (score - low) / (high - low)))
