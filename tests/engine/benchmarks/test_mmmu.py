"""mmmu_val: interleaved images, letters, open answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.benchmarks.made import document, load_benchmark, points, question, totals
from tests.support.task_files import datasets_cache, image

__all__ = ["datasets_cache"]


def mmmu_document(asked: str = "What is shown in <image 1>?", **values: Any) -> dict[str, Any]:
    given = {
        "id": "validation_Art_Theory_1",
        "question": asked,
        "options": "['a cup', 'a red bowl']",
        "question_type": "multiple-choice",
        "answer": "B",
        "image_1": image(10),
        "image_2": image(20),
        **values,
    }
    return document("mmmu_val", **given)


def content(task: Any, doc_id: int = 0) -> list[Any]:
    """What the model gets, an image by its brightness."""
    (message,) = task.build_request(doc_id).messages
    return [item["text"] if item["type"] == "text" else item["url"].getpixel((0, 0))[0] for item in message["content"]]


LETTER_PLEASE = "Answer with the option's letter from the given choices directly."


def test_images_stand_where_the_text_names_them(tmp_path: Path) -> None:
    documents = [
        mmmu_document(),
        mmmu_document(options="['<image 2>', 'none of these']"),
        mmmu_document(options="[]", question_type="open", answer="cup"),
    ]
    task = load_benchmark(tmp_path, "mmmu_val", documents)
    assert content(task, 0) == ["What is shown in", 10, f"?\nA. a cup\nB. a red bowl\n\n{LETTER_PLEASE}"]
    assert content(task, 1) == ["What is shown in", 10, "?\nA.", 20, f"B. none of these\n\n{LETTER_PLEASE}"]
    assert content(task, 2) == ["What is shown in", 10, "?\n\nAnswer the question using a single word or phrase."]


def test_an_image_named_again_is_shown_once_and_no_text_is_lost(tmp_path: Path) -> None:
    asked = "<image 2> follows <image 1>, so is <image 2> later?"
    task = load_benchmark(tmp_path, "mmmu_val", [mmmu_document(asked, options="[]", question_type="open")])
    text = ", so is <image 2> later?\n\nAnswer the question using a single word or phrase."
    assert content(task) == [20, "follows", 10, text]


def test_one_model_gets_its_images_first(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "mmmu_val", [mmmu_document()], model="qwen3_vl")
    assert content(task)[0] == 10
    assert question(task) == (
        "Question: What is shown in <image 1>?\nOptions:\nA. a cup\nB. a red bowl\nAnswer with the option letter only."
    )


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", 1),
        ("(B)", 1),
        ("B.", 1),
        ("A then B ", 1),
        ("(A) and not B", 0),
        ("What I see on the table is a red bowl", 1),
        ("What I see on the table is a cup", 0),
    ],
)
def test_letters_are_read_by_the_authors_rules(tmp_path: Path, answer: str, right: int) -> None:
    task = load_benchmark(tmp_path, "mmmu_val", [mmmu_document()])
    assert points(task, [answer], "mmmu_acc") == [right]


def test_a_guess_depends_on_question_and_answer_alone(tmp_path: Path) -> None:
    documents = [mmmu_document(id=f"validation_Art_{number}") for number in range(200)]
    task = load_benchmark(tmp_path, "mmmu_val", documents)
    first, second = (points(task, ["?"] * 200, "mmmu_acc") for _ in range(2))
    assert first == second
    assert 60 < sum(first) < 140


@pytest.mark.parametrize(
    ("right", "answer", "expected"),
    [
        ("42", "The answer is 42.", 1),
        ("42", "42.001", 1),
        ("1,200", "so it is 1200", 1),
        ("42", "43", 0),
        ("Paris", "It is paris", 1),
        ("Paris", "London", 0),
        ("b", "about", 0),
        ("['24/7', '3.43']", "x = 3.43", 1),
        ("['24/7', '3.43']", "24/7", 1),
        ("['24/7', '3.43']", "3.5", 0),
    ],
)
def test_open_answers_are_right_by_text_or_number(tmp_path: Path, right: str, answer: str, expected: int) -> None:
    made = mmmu_document(options="[]", question_type="open", answer=right)
    task = load_benchmark(tmp_path, "mmmu_val", [made])
    assert points(task, [answer], "mmmu_acc") == [expected]


def test_accuracy_is_over_all_questions_and_rounded(tmp_path: Path) -> None:
    documents = [mmmu_document(id=f"validation_{subject}_1") for subject in ("Art", "Math", "Music")]
    task = load_benchmark(tmp_path, "mmmu_val", documents)
    assert totals(task, ["B", "B", "A"]) == {"mmmu_acc": 0.66667}
