"""chartqa, docvqa_val, infovqa_val, textvqa_val and ocrbench: answers in the words of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.benchmarks.made import document, load_benchmark, points, question, totals
from tests.support.task_files import datasets_cache

__all__ = ["datasets_cache"]

PHRASE_PLEASE = "\nAnswer the question using a single word or phrase."


def chart(answer: str, kind: str = "human_test") -> dict[str, Any]:
    return document("chartqa", type=kind, question="How many?", answer=answer)


@pytest.mark.parametrize(
    ("right", "answer", "expected"),
    [
        ("100", "100", 1),
        ("100", "104.9", 1),
        ("100", "95", 1),
        ("100", "106", 0),
        ("50%", "0.5", 1),
        ("0", "0", 1),
        ("0", "0.0", 0),
        ("Yes", "yes", 1),
        ("Yes", "yes.", 0),
        ("10", "ten", 0),
        ("10", "", 0),
    ],
)
def test_chartqa_allows_numbers_five_per_cent(tmp_path: Path, right: str, answer: str, expected: int) -> None:
    task = load_benchmark(tmp_path, "chartqa", [chart(right)])
    assert question(task) == "How many?\nAnswer the question with a single word."
    assert points(task, [answer], "relaxed_overall") == [expected]


def test_chartqa_counts_each_split_by_itself(tmp_path: Path) -> None:
    documents = [chart("1"), chart("2"), chart("3", "augmented_test")]
    task = load_benchmark(tmp_path, "chartqa", documents)
    assert totals(task, ["1", "9", "3"]) == {
        "relaxed_overall": pytest.approx(2 / 3),
        "relaxed_human_split": pytest.approx(1 / 2),
        "relaxed_augmented_split": 1.0,
    }


@pytest.mark.parametrize("name", ["docvqa_val", "infovqa_val"])
def test_the_nearest_of_the_accepted_answers_counts(tmp_path: Path, name: str) -> None:
    documents = [
        document(name, questionId=str(number), question="Who wrote it?", answers=["J. Smith", "Smith"])
        for number in range(4)
    ]
    task = load_benchmark(tmp_path, name, documents)
    assert question(task) == f"Who wrote it?{PHRASE_PLEASE}"
    given = ["smith", "Smyth", "Jones and Son", ""]
    assert points(task, given, "anls") == [1.0, pytest.approx(0.8), 0.0, 0.0]
    assert totals(task, given) == {"anls": pytest.approx(0.45)}


def sign(*answers: str) -> dict[str, Any]:
    return document("textvqa_val", question_id=1, question="what does THE sign say?", answers=list(answers))


@pytest.mark.parametrize(
    ("agreeing", "expected"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_textvqa_leaves_each_person_out_in_turn(tmp_path: Path, agreeing: int, expected: float) -> None:
    task = load_benchmark(tmp_path, "textvqa_val", [sign(*["stop"] * agreeing, *["go"] * (10 - agreeing))])
    assert question(task) == f"What does the sign say?{PHRASE_PLEASE}"
    assert totals(task, ["Stop."]) == {"exact_match": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [("The two dogs!", "2 dogs"), ("dont", "don't"), ("a/b", "a b"), ("1,000", "1000"), ("none", "0")],
)
def test_textvqa_compares_normalised_answers(tmp_path: Path, answer: str, accepted: str) -> None:
    task = load_benchmark(tmp_path, "textvqa_val", [sign(*[accepted] * 10)])
    assert points(task, [answer], "exact_match") == [1.0]


def test_scoring_leaves_the_document_as_it_was(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "textvqa_val", [sign(*["The Stop"] * 10)])
    points(task, ["stop"], "exact_match")
    assert task.target(0) == ["The Stop"] * 10


def text(answers: list[str], source: str = "IIIT5K", kind: str = "Regular Text Recognition") -> dict[str, Any]:
    return document("ocrbench", dataset=source, question=" what is written? ", question_type=kind, answer=answers)


@pytest.mark.parametrize(
    ("made", "answer", "expected"),
    [
        (text(["CENTRE"]), "The word is centre.", 1),
        (text(["CENTRE", "CENTER"]), "center", 1),
        (text(["CENTRE"]), "cent re", 0),
        (text(["CENTRE"]), "", 0),
        (text(["ABC 1"]), "ＡＢＣ　１", 1),
        (text(["x ^ 2"], "HME100k"), "x^2", 1),
        (text(["X"], "HME100k"), "x", 0),
    ],
)
def test_ocrbench_looks_for_the_text_in_the_answer(
    tmp_path: Path, made: dict[str, Any], answer: str, expected: int
) -> None:
    task = load_benchmark(tmp_path, "ocrbench", [made])
    assert question(task) == "what is written?"
    assert points(task, [answer], "ocrbench_accuracy") == [expected]


def test_ocrbench_divides_by_what_was_run_and_forgets_between_runs(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "ocrbench", [text(["a"]), text(["b"]), text(["c"], kind="Doc-oriented VQA")])
    for _ in range(2):
        assert totals(task, ["a", "x", "c"]) == {"ocrbench_accuracy": pytest.approx(2 / 3)}
