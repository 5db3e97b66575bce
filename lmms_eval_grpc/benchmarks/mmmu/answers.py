"""Reading MMMU answers by the rules of the benchmark's authors (github.com/MMMU-Benchmark/MMMU, Apache-2.0)."""

import ast
import hashlib
import re

_SIGNS = ",.!?;:'"
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBER_FORMS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234,567
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e-3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12, 1.5, .5
)


def read_letter(response, options, guess_by):
    """The letter of ``options`` (a mapping from letters to texts) that ``response`` means.

    ``(A)`` goes before ``A`` and a space, that before ``A.``, that before an option's text in an answer of more than
    five words; of several the last. An answer without any is a guess, as the benchmark has it, but one that depends on
    ``guess_by`` and the response alone, so that a run can be repeated.
    """
    for sign in _SIGNS:
        response = response.strip(sign)
    response = f" {response} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in options if form.format(letter) in response]
        if found:
            return max(found, key=lambda letter: response.rfind(place.format(letter)))
    if len(response.split()) > 5:
        lower = response.lower()
        found = [letter for letter, text in options.items() if text.lower() in lower]
        if found:
            return max(found, key=lambda letter: lower.rfind(options[letter].lower()))
    digest = hashlib.sha256(f"{guess_by}\n{response}".encode()).digest()
    return list(options)[int.from_bytes(digest[:8], "big") % len(options)]


def read_open(response):
    """What an open answer may mean: texts in lower case, and numbers rounded to two digits, each once."""
    found = _key_phrases(response)
    numbers = [number for phrase in found for form in _NUMBER_FORMS for number in form.findall(phrase)]
    return list(dict.fromkeys(value for text in (*found, *numbers) for value in _comparable(text)))


def open_is_right(read, answer):
    """Whether an answer as :func:`read_open` gives it contains an acceptable text or equals an acceptable number."""
    accepted = [value for text in _acceptable(answer) for value in _comparable(text)]
    texts = [value for value in accepted if isinstance(value, str)]
    return any(any(text in value for text in texts) if isinstance(value, str) else value in accepted for value in read)


def _acceptable(answer):
    """Some answers of the data set are lists, written as Python text."""
    if isinstance(answer, str) and answer.startswith("[") and answer.endswith("]"):
        try:
            answer = [str(text) for text in ast.literal_eval(answer)]
        except (ValueError, SyntaxError):
            pass
    return answer if isinstance(answer, list) else [answer]


def _key_phrases(response):
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    phrases = []
    for number, line in enumerate(lines, start=1):
        shortest = ""
        # The last line may be an equation.
        for indicator in (*_INDICATORS, "=") if number == len(lines) else _INDICATORS:
            if indicator not in line:
                continue
            tail = line.split(indicator)[-1].strip()
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _SIGNS:
            phrases.append(shortest)
    return phrases or [response]


def _comparable(text):
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        # A single letter would be found in almost any text.
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]
