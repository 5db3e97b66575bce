"""mmbench, mmstar, ai2d, scienceqa, seedbench and realworldqa: prompts with letters, and answers read as letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.benchmarks._shared.choices import extract_letter
from tests.engine.benchmarks.made import document, load_benchmark, points, question, scores, totals
from tests.support.task_files import datasets_cache, image

__all__ = ["datasets_cache"]

LETTER_PLEASE = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" B. ", "B"),
        ("(C) for sure, because of it", "C"),
        ("The correct answer is D for sure", "D"),
        ("A or rather B", "A"),
        ("I looked at (A) and (B) here", "B"),
        ("it must be B: yes", "B"),
        ("b", ""),
        ("nothing", ""),
        ("", ""),
        ("...", ""),
        ("Dogs", "D"),
        ("E", ""),
    ],
)
def test_letters_are_found_in_free_answers(answer: str, letter: str) -> None:
    assert extract_letter(answer) == letter


def mmbench_document(index: int, answer: str = "A", **values: Any) -> dict[str, Any]:
    options = {"A": "red", "B": "blue", "C": "green", "D": "grey"}
    return document(
        "mmbench_en_dev",
        **{
            "index": index,
            "question": "Which colour?",
            "hint": "nan",
            "answer": answer,
            **options,
            "category": "colour",
            "L2-category": "attribute",
            "source": "made",
            "split": "dev",
            **values,
        },
    )


def test_mmbench_lists_the_options_and_asks_for_a_letter(tmp_path: Path) -> None:
    documents = [
        mmbench_document(1),
        mmbench_document(2, hint="Look up.", C="nan", D=None),
    ]
    task = load_benchmark(tmp_path, "mmbench_en_dev", documents)
    assert question(task, 0) == (
        f"Which colour? There are several options:\nA. red\nB. blue\nC. green\nD. grey\n\n{LETTER_PLEASE}"
    )
    assert question(task, 1) == (
        f"Look up. Which colour? There are several options:\nA. red\nB. blue\n\n{LETTER_PLEASE}"
    )
    assert task.build_request(0).generation["until"] == ["ASSISTANT:"]


@pytest.mark.parametrize(
    ("answer", "right", "undecided"),
    [
        ("A", 1, 0),
        ("A.", 1, 0),
        ("(A)", 1, 0),
        ("The colour is red.", 1, 0),
        ("RED", 1, 0),
        ("B", 0, 0),
        ("red or blue", 0, 1),
        ("A dog is on the left", 1, 1),
        ("", 0, 1),
    ],
)
def test_mmbench_says_which_answers_its_rules_leave_open(
    tmp_path: Path, answer: str, right: int, undecided: int
) -> None:
    task = load_benchmark(tmp_path, "mmbench_en_dev", [mmbench_document(1)])
    (score,) = scores(task, [answer])
    assert (score["gpt_eval_score"]["score"], score["undecided_by_rules"]) == (right, undecided)


def test_mmbench_wants_every_rotation_of_a_question_right(tmp_path: Path) -> None:
    documents = [
        mmbench_document(1, "A"),
        mmbench_document(1_000_001, "B"),
        mmbench_document(2, "A"),
        mmbench_document(1_000_002, "B"),
        mmbench_document(1_000_003, "B"),  # its first row is missing, so it does not count
    ]
    for name in ("mmbench_en_dev", "mmbench_en_dev_static"):
        task = load_benchmark(tmp_path / name, name, documents, family="mmbench_en_dev")
        assert totals(task, ["A", "B", "A", "A", "B"])["gpt_eval_score"] == pytest.approx(50.0)


def test_an_option_that_the_data_set_leaves_empty_is_none(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "mmbench_en_dev", [mmbench_document(1, "B", B="banana", C="nan", D="nan")])
    assert points(task, ["It is a banana."], "gpt_eval_score") == [1]


def mmstar_document(answer: str, category: str, subcategory: str) -> dict[str, Any]:
    return document(
        "mmstar",
        index=1,
        question="What is it?\nOptions: A: red, B: blue, C: one, D: two",
        answer=answer,
        category=category,
        l2_category=subcategory,
        meta_info={"source": "made", "split": "val", "image_path": "1.jpg"},
    )


def test_mmstar_asks_for_the_letter_without_a_full_stop(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "mmstar", [mmstar_document("A", "math", "geometry")])
    assert question(task) == (
        "What is it?\nOptions: A: red, B: blue, C: one, D: two\n"
        "Answer with the option's letter from the given choices directly"
    )


def test_mmstar_averages_over_subcategories(tmp_path: Path) -> None:
    documents = [
        mmstar_document("A", "math", "geometry"),
        mmstar_document("A", "math", "geometry"),
        mmstar_document("B", "math", "statistical reasoning"),
        mmstar_document("C", "logical reasoning", "diagram reasoning"),
    ]
    task = load_benchmark(tmp_path, "mmstar", documents)
    assert totals(task, ["A", "B", "(B)", "nothing"]) == {
        "math": pytest.approx(0.75),
        "logical reasoning": 0.0,
        "average": pytest.approx(0.5),
    }


AI2D = {"question": "What eats the leaf?", "options": ["worm", "owl", "fox", "bee"], "answer": "1"}


@pytest.mark.parametrize(
    ("model", "prompt", "target"),
    [
        ("huggingface", f"What eats the leaf?\nA. worm\nB. owl\nC. fox\nD. bee\n{LETTER_PLEASE}", "B"),
        ("qwen_vl", "What eats the leaf?worm\nowl\nfox\nbee Answer:", "owl"),
    ],
)
def test_ai2d_prompt_and_target_go_by_the_model(tmp_path: Path, model: str, prompt: str, target: str) -> None:
    task = load_benchmark(tmp_path, "ai2d", [document("ai2d", **AI2D)], model=model)
    assert (question(task), task.target(0)) == (prompt, target)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("B", 1), ("b", 1), ("B.", 1), (" B. owl", 1), ("(B)", 1), ("owl", 0), ("A. B", 0), ("B owl", 0), ("", 0)],
)
def test_ai2d_takes_a_leading_letter_and_compares_exactly(tmp_path: Path, answer: str, right: int) -> None:
    task = load_benchmark(tmp_path, "ai2d", [document("ai2d", **AI2D)])
    assert [pipeline.name for pipeline in task.pipelines] == ["flexible-extract"]
    assert points(task, [answer], "exact_match") == [right]


def science(**values: Any) -> dict[str, Any]:
    given = {"question": "Which is a rock?", "choices": ["cat", "granite"], "answer": 1, "hint": "", **values}
    return document("scienceqa_img", **given)


def test_scienceqa_puts_the_hint_first_and_does_without_an_image(tmp_path: Path) -> None:
    documents = [science(), science(hint="It is hard.", image=None)]
    task = load_benchmark(tmp_path, "scienceqa", documents, family="scienceqa_img")
    plain = f"Which is a rock?\nA. cat\nB. granite\n{LETTER_PLEASE}"
    assert [question(task, 0), question(task, 1)] == [plain, f"Context: It is hard.\n{plain}"]
    kinds = [[item["type"] for item in task.build_request(number).messages[0]["content"]] for number in (0, 1)]
    assert kinds == [["image", "text"], ["text"]]
    assert task.target(0) == "B"


@pytest.mark.parametrize(
    ("answer", "right"),
    [("B", 1), ("b", 1), ("B.", 1), ("B. granite", 1), ("b. granite", 0), ("granite", 0), ("A. B", 0), ("", 0)],
)
def test_scienceqa_takes_a_letter_or_a_capital_with_a_full_stop(tmp_path: Path, answer: str, right: int) -> None:
    task = load_benchmark(tmp_path, "scienceqa_img", [science()])
    assert points(task, [answer], "exact_match") == [right]
    assert totals(task, [answer]) == {"exact_match": right}


def seed(kind: str, answer: str, pictures: int = 1) -> dict[str, Any]:
    return document(
        "seedbench",
        question="What is seen?",
        **{f"choice_{letter}": f"thing {letter}" for letter in "abcd"},
        answer=answer,
        data_id="1",
        data_type=kind,
        question_id="1",
        question_type_id=1,
        image=[image(10 * number) for number in range(pictures)],
        segment=[0, 8],
    )


def test_seedbench_shows_all_frames_and_four_options(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "seedbench", [seed("video", "A", pictures=3)])
    content = task.build_request(0).messages[0]["content"]
    assert [item["type"] for item in content] == ["image"] * 3 + ["text"]
    assert question(task) == (f"What is seen?\nA. thing a\nB. thing b\nC. thing c\nD. thing d\n{LETTER_PLEASE}")


def test_seedbench_counts_the_first_character_by_kind_of_data(tmp_path: Path) -> None:
    documents = [seed("image", "A"), seed("image", "B"), seed("video", "C"), seed("video", "D")]
    task = load_benchmark(tmp_path, "seedbench", documents)
    assert totals(task, ["A. thing a", "(B)", "c", ""]) == {
        "seed_image": pytest.approx(0.5),
        "seed_video": pytest.approx(0.5),
        "seed_all": pytest.approx(0.5),
    }


INSTRUCTION = "Please answer directly with only the letter of the correct option and nothing else."


def test_realworldqa_keeps_the_questions_own_instruction(tmp_path: Path) -> None:
    asked = f"How many cars?\nA. 1\nB. 2\n{INSTRUCTION}"
    task = load_benchmark(tmp_path, "realworldqa", [document("realworldqa", question=asked, answer="B")])
    assert question(task) == asked


def test_realworldqa_reads_letters_and_compares_words(tmp_path: Path) -> None:
    right = ["B", "B", "Downhill", "Downhill", "3", "3"]
    documents = [document("realworldqa", question="Q?", answer=answer) for answer in right]
    task = load_benchmark(tmp_path, "realworldqa", documents)
    given = ["The answer is B", "A", "downhill.", "It goes downhill", "3", "three"]
    assert points(task, given, "exact_match") == [1, 0, 1, 0, 1, 0]
    assert totals(task, given) == {"exact_match": pytest.approx(0.5)}
