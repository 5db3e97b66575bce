"""MathVista: the value that an answer ends in, by rules or by a judge, compared with the right one."""

import re

from lmms_eval_grpc.benchmarks._shared import judge
from lmms_eval_grpc.benchmarks._shared.choices import LETTERS, extract_letter
from lmms_eval_grpc.benchmarks._shared.edit_distance import edit_distance
from lmms_eval_grpc.benchmarks._shared.groups import percentage
from lmms_eval_grpc.benchmarks.mathvista.judge_prompt import extraction_prompt

_BRACKETED_LETTER = re.compile(r"\(([a-zA-Z])\)")
_LEADING_LETTER = re.compile(r"\W*([A-Z])(?:[.:)]|\W*$)")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?|-?\.\d+")
_LIST = re.compile(r"\[[^\[\]]*\]")
_ANNOUNCED = re.compile(r"(?:answer|solution)(?: is)?\s*[:=]?\s*", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def doc_to_visual(doc):
    return [doc["decoded_image"].convert("RGB")]


def process_results(doc, results):
    response = results[0].strip()
    bare = bare_value(doc, response)
    scores = {"accuracy_parsed": _result(doc, extract_by_rules(doc, response) if bare is None else bare)}
    if judge.configured():
        scores["llm_as_judge_eval"] = _result(doc, ask_judge(doc, response) if bare is None else bare)
    return scores


def accuracy(results):
    return round(percentage(results), 2)


def bare_value(doc, response):
    """What ``response`` means where it is nothing but a value: a choice's text, a number, nothing; else None."""
    if not response or (doc["question_type"] == "multi_choice" and response in doc["choices"]):
        return response
    convert = {"integer": int, "float": float}.get(doc["answer_type"])
    try:
        return str(convert(response)) if convert else None
    except ValueError:
        return None


def extract_by_rules(doc, response):
    """The value in an answer of sentences: what is boxed, else what follows the last "answer", else what comes last."""
    boxed = _BOXED.findall(response)
    text = boxed[-1] if boxed else response
    announced = [part for part in _ANNOUNCED.split(text)[1:] if part.strip()]
    if doc["question_type"] == "multi_choice":
        return _option(doc["choices"], text, announced)
    if doc["answer_type"] == "list":
        return (_LIST.findall(text) or [text])[-1]
    numbers = _NUMBER.findall(announced[-1]) if announced else []
    number = numbers[0] if numbers else (_NUMBER.findall(text) or [""])[-1]
    return number.replace(",", "")


def ask_judge(doc, response):
    """The value as the judge reads it. Raises judge.JudgeError."""
    return judge.ask(extraction_prompt(doc["query"], response), max_tokens=256)


def comparable(doc, value):
    """``value`` in the form of the right answer: a choice's text, or a number written its way; None if it is none."""
    choices, kind = doc["choices"], doc["answer_type"]
    if doc["question_type"] == "multi_choice":
        value = value.strip()
        letter = _BRACKETED_LETTER.search(value)
        value = letter[1].upper() if letter else value
        if len(value) == 1 and value in LETTERS[: len(choices)]:
            return choices[LETTERS.index(value)]
        return min(choices, key=lambda choice: edit_distance(value, choice))
    try:
        if kind == "integer":
            return str(int(float(value)))
        if kind == "float":
            return str(round(float(value), int(doc["precision"])))
    except (ValueError, OverflowError):
        return None
    return str(value)


def _option(choices, text, announced):
    """A letter in brackets or standing first, else a choice's text, else any letter; in what is announced, then all."""
    letters = LETTERS[: len(choices)]
    for part in (*announced[-1:], text):
        bracketed = [letter.upper() for letter in _BRACKETED_LETTER.findall(part) if letter.upper() in letters]
        leading = _LEADING_LETTER.match(part)
        named = [choice for choice in choices if choice.lower() in part.lower()]
        if bracketed:
            return bracketed[-1]
        if leading and leading[1] in letters:
            return leading[1]
        if named:
            return max(named, key=len)
    return extract_letter(text, letters) or text


def _result(doc, extraction):
    prediction = comparable(doc, extraction)
    right = str(prediction).strip() == str(doc["answer"]).strip()
    return {
        "question_id": doc["pid"],
        "extraction": extraction,
        "prediction": prediction,
        "answer": doc["answer"],
        "score": float(right),
    }
