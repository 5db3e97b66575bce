"""mme, pope and hallusion_bench_image: answers of yes and no, alone and in groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.benchmarks.made import document, load_benchmark, points, question, scores, totals
from tests.support.task_files import datasets_cache

__all__ = ["datasets_cache"]


def mme_pair(number: int, category: str) -> list[dict]:
    asked = "Is there a dog in this image?"
    return [
        document(
            "mme",
            question_id=f"{category}/{number}.png",
            question=f"{asked} Please answer yes or no.",
            answer=answer,
            category=category,
        )
        for answer in ("Yes", "No")
    ]


def test_mme_asks_for_a_single_word_instead_of_yes_or_no(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "mme", mme_pair(1, "existence"))
    assert question(task) == "Is there a dog in this image?\nAnswer the question using a single word or phrase."
    (picture, text) = task.build_request(0).messages[0]["content"]
    assert (picture["type"], picture["url"].mode, text["type"]) == ("image", "RGB", "text")


def test_mme_keeps_its_own_instruction_where_a_model_has_no_prompts(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "mme", mme_pair(1, "existence"), model="plm")
    assert question(task) == "Is there a dog in this image? Please answer yes or no."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", 1),
        ("yes.", 1),
        ("Y", 1),
        ("Yes, there is a dog", 1),
        ("Oh yes", 0),
        ("a yes", 0),
        ("no", 0),
        ("N", 0),
        ("", 0),
        ("dog", 0),
    ],
)
def test_mme_reads_yes_from_the_start_of_an_answer(tmp_path: Path, answer: str, expected: int) -> None:
    task = load_benchmark(tmp_path, "mme", mme_pair(1, "existence")[:1])
    assert points(task, [answer], "mme_perception_score") == [expected]


def test_mme_adds_accuracy_and_paired_accuracy_over_categories(tmp_path: Path) -> None:
    documents = [
        *mme_pair(1, "existence"),
        *mme_pair(2, "existence"),
        *mme_pair(1, "OCR"),
        *mme_pair(1, "code_reasoning"),
    ]
    task = load_benchmark(tmp_path, "mme", documents)
    answers = ["yes", "no", "yes", "yes", "no", "yes", "yes", "no"]
    # existence: accuracy 75, both right for one of two images: 50; OCR: nothing.
    assert totals(task, answers) == {
        "mme_perception_score": pytest.approx(125.0),
        "mme_cognition_score": pytest.approx(200.0),
    }


def test_mme_leaves_an_image_out_of_which_one_answer_is_missing(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "mme", [*mme_pair(1, "count"), *mme_pair(2, "count")[:1]])
    assert totals(task, ["yes", "no", "no"])["mme_perception_score"] == pytest.approx(200.0)


def pope_document(number: int, answer: str) -> dict:
    return document("pope", id=str(number), question_id=str(number), question=" Is there a cat? ", answer=answer)


def test_pope_asks_the_question_and_for_a_single_word(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "pope", [pope_document(1, "yes")])
    assert question(task) == "Is there a cat?\nAnswer the question using a single word or phrase."


def test_pope_counts_whole_answers_only(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "pope", [pope_document(number, "yes") for number in range(4)])
    assert points(task, ["Yes", " YES ", "yes.", "no"], "pope_accuracy") == [1, 1, 0, 0]


def test_pope_precision_recall_and_the_share_of_yes(tmp_path: Path) -> None:
    right = ["yes", "yes", "yes", "no", "no", "no"]
    task = load_benchmark(tmp_path, "pope", [pope_document(number, answer) for number, answer in enumerate(right)])
    values = totals(task, ["yes", "no", "perhaps", "yes", "no", "no"])
    assert values == {
        "pope_accuracy": pytest.approx(3 / 6),
        "pope_precision": pytest.approx(1 / 2),
        "pope_recall": pytest.approx(1 / 2),
        "pope_f1_score": pytest.approx(1 / 2),
        "pope_yes_ratio": pytest.approx(2 / 6),
    }


def test_pope_without_a_yes_has_zeros(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "pope_adv", [pope_document(1, "yes"), pope_document(2, "no")], family="pope")
    values = totals(task, ["", "no"])
    assert [values[f"pope_{name}"] for name in ("precision", "recall", "f1_score", "yes_ratio")] == [0, 0, 0, 0]


def hallusion(question_id: int, figure_id: int, answer: str, category: str = "VD") -> dict:
    return document(
        "hallusion_bench_image",
        category=category,
        subcategory="chart",
        visual_input="1",
        set_id="0",
        figure_id=str(figure_id),
        question_id=str(question_id),
        question="Is A larger than B?",
        gt_answer=answer,
        gt_answer_details="A is larger than B." if answer == "1" else "A is not larger than B.",
        filename="./a.png",
    )


def test_hallusion_bench_counts_answers_questions_and_figures_by_rules(tmp_path: Path) -> None:
    documents = [hallusion(0, 0, "1"), hallusion(0, 1, "0"), hallusion(1, 0, "0"), hallusion(1, 1, "1")]
    task = load_benchmark(tmp_path, "hallusion_bench_image", documents)
    assert question(task) == "Is A larger than B?"
    values = totals(task, ["Yes, it is.", "No.", "no", "It is not."])
    assert values == {
        "aAcc_parsed": pytest.approx(3 / 4),
        "qAcc_parsed": pytest.approx(1 / 2),
        "fAcc_parsed": pytest.approx(1 / 2),
    }


def test_hallusion_bench_without_a_judge_has_no_judged_metric(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "hallusion_bench_image", [hallusion(0, 0, "1")])
    assert set(scores(task, ["yes"])[0]) == {"aAcc_parsed", "qAcc_parsed", "fAcc_parsed"}


def test_paired_scores_keep_their_intervals_by_drawing_whole_images(tmp_path: Path) -> None:
    from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
    from lmms_eval_grpc.engine.scoring.process import score_sample

    documents = [one for number in range(20) for one in mme_pair(number, "existence")]
    task = load_benchmark(tmp_path, "mme", documents)
    answers = ["yes" if number % 3 else "no" for number in range(40)]
    samples = [ScoredSample(doc_id, score_sample(task, doc_id, [answer])) for doc_id, answer in enumerate(answers)]
    (metric,) = aggregate_task(task, samples, asked=40, errored=0, seconds=1.0).metrics
    assert metric.confidence_method == "cluster_bootstrap"
    assert metric.confidence_lower < metric.value < metric.confidence_upper
