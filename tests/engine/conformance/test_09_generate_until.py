"""9. generate_until scoring: single and multiple targets, anls, the keyword arguments of exact_match, k responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.scoring.process import score_sample
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]


def score(folder: Path, target: Any, responses: list[str], keys: str = "", **settings: Any) -> dict[str, Any]:
    write_task(folder, keys, documents=[{"question": "q", "answer": target, "options": ["red", "blue"]}])
    (result,) = score_sample(load(folder, **settings), 0, responses)
    return result.scores


def metric(text: str) -> str:
    return f"metric_list: [{{{text}, aggregation: mean, higher_is_better: true}}]"


@pytest.mark.parametrize(
    ("target", "response", "keys", "expected"),
    [
        ("Cat", " Cat \n", "", {"exact_match": 1.0}),
        ("Cat", "cat", "", {"exact_match": 0.0}),
        ("Cat", "cat", metric("metric: exact_match, ignore_case: true"), {"exact_match": 1.0}),
        ("Cat!", "Cat", metric("metric: exact_match, ignore_punctuation: true"), {"exact_match": 1.0}),
        ("Cat7", "3Cat", metric("metric: exact_match, ignore_numbers: true"), {"exact_match": 1.0}),
        ("a Cat", "the Cat", metric("metric: exact_match, regexes_to_ignore: ['a ', 'the ']"), {"exact_match": 1.0}),
        (["x", "Cat"], "Cat", "", {"exact_match": 1.0}),
        (["x", "y"], "Cat", "", {"exact_match": 0.0}),
        ("hello", "helo", metric("metric: anls"), {"anls": pytest.approx(0.8)}),
        (["x", "Hello  World"], "hello world", metric("metric: anls"), {"anls": pytest.approx(1.0)}),
        ("hello", "xyz", metric("metric: anls"), {"anls": 0.0}),
        ("hello", "hexxo", metric("metric: anls, thresh_hold: 0.7"), {"anls": 0.0}),
        ("1", "blue", "doc_to_choice: options\ndoc_to_target: '{{answer}}'", {"exact_match": 1.0}),
    ],
)
def test_one_response(tmp_path: Path, target: Any, response: str, keys: str, expected: dict[str, Any]) -> None:
    assert score(tmp_path, target, [response], keys) == expected


def test_the_first_of_k_responses_is_scored_and_each_alone(tmp_path: Path) -> None:
    write_task(tmp_path, documents=[{"question": "q", "answer": "Cat"}])
    (result,) = score_sample(load(tmp_path, repeats=3), 0, ["dog", "Cat", "Cat"])
    assert result.scores == {"exact_match": 0.0}
    assert [one["exact_match"] for one in result.repeat_scores] == [0.0, 1.0, 1.0]


def test_a_majority_vote_of_k_responses(tmp_path: Path) -> None:
    keys = "filter_list: [{name: vote, filter: [{function: majority_vote}, {function: take_first}]}]"
    assert score(tmp_path, "Cat", ["dog", "Cat", "Cat"], keys, repeats=3) == {"exact_match": 1.0}


def test_k_responses_that_are_kept_are_all_scored(tmp_path: Path) -> None:
    keys = "filter_list: [{name: both, filter: [{function: take_first_k, k: 2}]}]"
    assert score(tmp_path, "Cat", ["dog", "Cat", "Cat"], keys, repeats=3) == {"exact_match": 0.5}


def test_a_metric_of_the_tasks_own_in_either_form(tmp_path: Path) -> None:
    utils = """
        def named(references, predictions, bonus=0):
            return {"named": float(predictions[0] in references) + bonus}

        def listed(items):
            wanted, given = items
            return float(given[0] in wanted)
    """
    keys = """
        metric_list:
          - {metric: !function utils.named, aggregation: mean, higher_is_better: true, bonus: 2}
          - {metric: !function utils.listed, aggregation: mean, higher_is_better: true}
    """
    write_task(tmp_path, keys, utils=utils, documents=[{"question": "q", "answer": "Cat"}])
    (result,) = score_sample(load(tmp_path), 0, ["Cat"])
    assert result.scores == {"named": 3.0, "listed": 1.0}


def test_translation_metrics_keep_references_and_responses_for_the_aggregation(tmp_path: Path) -> None:
    keys = metric("metric: bleu").replace("aggregation: mean", "aggregation: bleu")
    assert score(tmp_path, ["a cat", "one cat"], ["a cat"], keys) == {"bleu": (["a cat", "one cat"], ["a cat"])}
