"""mathvista_testmini: hints by the kind of answer, values read by rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.benchmarks.made import document, load_benchmark, points, question, scores, totals
from tests.support.task_files import datasets_cache, load

__all__ = ["datasets_cache"]


def problem(kind: str = "integer", **values: Any) -> dict[str, Any]:
    multiple = kind == "text"
    given = {
        "pid": "7",
        "question": "How long is it?",
        "image": "images/7.jpg",
        "choices": ["2 cm", "4 cm", "blue"] if multiple else None,
        "unit": None,
        "precision": {"float": 1.0}.get(kind),
        "answer": {"text": "4 cm", "integer": "42", "float": "4.5", "list": "[1, 2]"}[kind],
        "question_type": "multi_choice" if multiple else "free_form",
        "answer_type": kind,
        "metadata": {"split": "testmini", "skills": ["arithmetic reasoning"]},
        "query": "Hint: …\nQuestion: How long is it?",
        **values,
    }
    return document("mathvista_testmini", **given)


def task_for(folder: Path, style: str, *documents: dict[str, Any]) -> Any:
    return load_benchmark(folder, f"mathvista_testmini_{style}", documents, family="mathvista_testmini")


LETTER_HINT = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
INTEGER_HINT = (
    "Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the "
    "end."
)


@pytest.mark.parametrize(
    ("style", "made", "prompt"),
    [
        ("cot", problem(), f"Question: How long is it?\n{INTEGER_HINT}"),
        ("solution", problem(unit="cm"), f"Question: How long is it? (Unit: cm)\n{INTEGER_HINT}\nSolution:"),
        (
            "solution",
            problem("text"),
            f"Question: How long is it?\nChoices:\n(A) 2 cm\n(B) 4 cm\n(C) blue\n{LETTER_HINT}\nSolution:",
        ),
        (
            "format",
            problem("text"),
            "How long is it?\nA. 2 cm\nB. 4 cm\nC. blue\nAnswer with the option's letter from the given choices "
            "directly.",
        ),
        (
            "format",
            problem("float"),
            "How long is it?\nAnswer the question using a single floating-point number with one decimal place.",
        ),
        ("format", problem("list"), "How long is it?\nAnswer the question using a Python list."),
    ],
)
def test_the_hint_goes_by_style_and_kind_of_answer(
    tmp_path: Path, style: str, made: dict[str, Any], prompt: str
) -> None:
    assert question(task_for(tmp_path, style, made)) == prompt


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("integer", "42", 1),
        ("integer", "First 3 times 14. So the answer is 42.", 1),
        ("integer", "\\boxed{42} of 100", 1),
        ("integer", "42 or 43", 0),
        ("integer", "no idea", 0),
        ("integer", "", 0),
        ("float", "4.5", 1),
        ("float", "about 4.49 metres", 1),
        ("float", "4.4", 0),
        ("list", "Between [1, 2].", 1),
        ("list", "[2, 1]", 0),
        ("text", "B", 1),
        ("text", "(B) 4 cm", 1),
        ("text", "B. 4 cm", 1),
        ("text", "4 cm", 1),
        ("text", "Of (A), (B) and (C), the answer is (B)", 1),
        ("text", "The answer: B", 1),
        ("text", "It is 4 cm long", 1),
        ("text", "Answer: A", 0),
        ("text", "blue", 0),
    ],
)
def test_values_are_read_out_of_answers_by_rules(tmp_path: Path, kind: str, answer: str, right: int) -> None:
    task = task_for(tmp_path, "cot", problem(kind))
    assert points(task, [answer], "accuracy_parsed") == [right]


def test_without_a_judge_there_is_no_judged_metric(tmp_path: Path) -> None:
    task = task_for(tmp_path, "format", problem(), problem(), problem())
    assert set(scores(task, ["42", "1", "2"])[0]) == {"accuracy_parsed"}
    assert totals(task, ["42", "1", "2"]) == {"accuracy_parsed": 33.33}


def test_worked_examples_are_refused(tmp_path: Path) -> None:
    task_for(tmp_path, "format", problem())
    with (tmp_path / "made.yaml").open("a") as file:
        file.write("lmms_eval_specific_kwargs: {shot_type: solution, shot: 2}\n")
    with pytest.raises(Exception, match="shot must be 0"):
        load(tmp_path, "made_mathvista_testmini_format")
