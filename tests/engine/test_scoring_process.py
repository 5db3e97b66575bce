"""One sample scored: from responses to what the task makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from lmms_eval_grpc.engine.scoring.process import FilteredScore, ScoringError, score_sample
from tests.support.task_files import datasets_cache, image, load, write_task

__all__ = ["datasets_cache"]


def score(folder: Path, doc_id: int, *responses: str, **settings: Any) -> FilteredScore:
    (scored,) = score_sample(load(folder, **settings), doc_id, responses)
    return scored


def test_a_response_is_stripped_and_compared_with_the_target(tmp_path: Path) -> None:
    write_task(tmp_path)
    right = score(tmp_path, 2, " a2\n")
    assert right == FilteredScore("none", ("a2",), {"exact_match": 1.0})
    assert score(tmp_path, 2, "a3").scores == {"exact_match": 0.0}


def test_metric_arguments_are_used(tmp_path: Path) -> None:
    write_task(tmp_path, "metric_list: [{metric: exact_match, ignore_case: true}, {metric: anls}]")
    assert score(tmp_path, 1, "A1").scores == {"exact_match": 1.0, "anls": 1.0}


def test_reasoning_is_cut_before_scoring_but_not_from_what_filters_see(tmp_path: Path) -> None:
    keys = """
        filter_list:
          - {name: raw, filter: [{function: take_first}]}
          - {name: x, filter: [{function: regex, regex_pattern: 'a.'}]}
    """
    write_task(tmp_path, keys)
    raw, extracted = score_sample(load(tmp_path), 1, ["<think>a0</think>a1"])
    assert (raw.filter, raw.filtered_responses, raw.scores) == ("raw", ("a1",), {"exact_match": 1.0})
    assert (extracted.filter, extracted.filtered_responses, extracted.scores) == ("x", ("a0",), {"exact_match": 0.0})
    (kept, _) = score_sample(load(tmp_path, reasoning_tags="none"), 1, ["<think>a0</think>a1"])
    assert kept.filtered_responses == ("<think>a0</think>a1",)


def test_auto_strip_thinking_applies_where_no_tags_do(tmp_path: Path) -> None:
    keys = "auto_strip_thinking: true\nfilter_list: [{name: x, filter: [{function: regex, regex_pattern: 'a.'}]}]"
    write_task(tmp_path, keys)
    assert score(tmp_path, 1, "<think>a0</think>a1", reasoning_tags="none").filtered_responses == ("a1",)
    assert score(tmp_path, 1, "<think>a0</think>a1").filtered_responses == ("a0",)


def test_any_of_several_targets_will_do(tmp_path: Path) -> None:
    documents = [{"question": "q", "answer": ["yes", "y"]}, {"question": "q", "answer": ["no"]}]
    keys = "metric_list: [{metric: exact_match}, {metric: anls}]"
    write_task(tmp_path, keys, documents=documents)
    assert score(tmp_path, 0, "y").scores == {"exact_match": 1.0, "anls": 1.0}
    assert score(tmp_path, 1, "yes").scores["exact_match"] == 0.0


def test_a_first_document_without_a_target_does_not_spoil_the_others(tmp_path: Path) -> None:
    documents = [{"question": "q", "answer": text} for text in ("", "yes no", "y n")]
    utils = """
        def target(doc):
            first, second = doc["answer"].split()
            return [first, second]
    """
    write_task(tmp_path, "doc_to_target: !function utils.target", documents=documents, utils=utils)
    assert score(tmp_path, 1, "no").scores == {"exact_match": 1.0}
    with pytest.raises(ScoringError, match="document 0: doc_to_target failed"):
        score(tmp_path, 0, "no")


def test_a_target_that_is_the_number_of_a_choice(tmp_path: Path) -> None:
    write_task(tmp_path, "doc_to_choice: ['no', 'yes']\ndoc_to_target: '1'")
    assert score(tmp_path, 0, "yes").scores == {"exact_match": 1.0}


PROCESS = """
    def process(doc, results):
        return {"kept": (doc["question"], list(results)), "n": len(results), "keys": sorted(doc)}
"""
PROCESS_KEYS = """
    process_results: !function utils.process
    metric_list: [{metric: n, aggregation: mean}]
"""


def test_process_results_gets_the_document_and_returns_anything(tmp_path: Path) -> None:
    write_task(tmp_path, PROCESS_KEYS, utils=PROCESS)
    assert score(tmp_path, 3, " x ").scores == {"kept": ("q3", ["x"]), "n": 1, "keys": ["answer", "question"]}


def test_kept_responses_reach_process_results_as_a_flat_list(tmp_path: Path) -> None:
    keys = PROCESS_KEYS + "    filter_list: [{name: k, filter: [{function: take_first_k, k: 2}]}]\n"
    write_task(tmp_path, keys, utils=PROCESS)
    scored = score(tmp_path, 0, " a", "b ", "c")
    assert scored.scores["kept"] == ("q0", ["a", "b"])
    assert [repeat["kept"][1] for repeat in scored.repeat_scores] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("with_media", [True, False])
def test_scorers_get_media_only_when_the_task_asks(tmp_path: Path, with_media: bool) -> None:
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    documents = [{"image": image(1), "question": "q"}]
    keys = PROCESS_KEYS + f"    process_results_use_image: {str(with_media).lower()}\n"
    write_task(tmp_path, keys, documents=documents, features=features, utils=PROCESS)
    assert score(tmp_path, 0, "x").scores["keys"] == (["image", "question"] if with_media else ["question"])


def test_several_responses_are_also_scored_alone(tmp_path: Path) -> None:
    write_task(tmp_path)
    scored = score(tmp_path, 1, "a1", "wrong", "a1")
    assert scored.scores == {"exact_match": 1.0}
    assert [repeat["exact_match"] for repeat in scored.repeat_scores] == [1.0, 0.0, 1.0]


def test_predictions_alone_are_filtered_and_not_scored(tmp_path: Path) -> None:
    write_task(tmp_path)
    assert score(tmp_path, 0, " a ", predict_only=True) == FilteredScore("none", ("a",), {})


@pytest.mark.parametrize(
    ("utils", "message"),
    [
        ("def process(doc, results):\n    return doc['nothing']\n", "KeyError: 'nothing'"),
        ("def process(doc, results):\n    return 1\n", "must return a mapping"),
    ],
)
def test_a_scorer_that_raises_is_an_error_of_that_sample_at_once(tmp_path: Path, utils: str, message: str) -> None:
    write_task(tmp_path, PROCESS_KEYS, utils=utils)
    with pytest.raises(ScoringError, match=message) as raised:
        score(tmp_path, 4, "x")
    assert (raised.value.task, raised.value.doc_id) == ("toy", 4)
    assert raised.value.message.startswith("task toy, document 4, filter none: ")


def test_a_filter_that_raises_is_a_scoring_error_too(tmp_path: Path) -> None:
    write_task(tmp_path, "filter_list: [{name: m, filter: [{function: multi_choice_regex}]}]")
    with pytest.raises(ScoringError, match=r"filter m: .*KeyError: 'choices'"):
        score(tmp_path, 0, "x")


def test_each_document_meets_its_own_choices_whatever_the_order(tmp_path: Path) -> None:
    documents = [{"question": "q", "answer": "(A)", "choices": [f"c{i}", "other"]} for i in range(6)]
    keys = "filter_list: [{name: m, filter: [{function: multi_choice_regex}, {function: take_first}]}]"
    write_task(tmp_path, keys, documents=documents)
    task = load(tmp_path)
    for doc_id in (5, 2, 4):
        (scored,) = score_sample(task, doc_id, [f"c{doc_id}"])
        assert scored.scores == {"exact_match": 1.0}
