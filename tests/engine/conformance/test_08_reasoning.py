"""8. Stripping of reasoning: a golden file of nested, unclosed and only-closed tags, several pairs, white space.

``golden_reasoning.json`` holds what lmms-eval 0.7.3 made of these inputs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.scoring.process import score_sample
from lmms_eval_grpc.engine.scoring.reasoning import strip_reasoning
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

GOLDEN = json.loads(Path(__file__).with_name("golden_reasoning.json").read_text())


def test_every_text_is_stripped_as_by_lmms_eval() -> None:
    wrong = []
    for case in GOLDEN:
        result = strip_reasoning(case["text"], [(start, end) for start, end in case["tags"]])
        if result != case["expected"]:
            wrong.append((case, result))
    assert len(GOLDEN) > 50
    assert not wrong


@pytest.mark.parametrize(
    ("task_tags", "evaluation_tags", "expected"),
    [
        ("", None, "a0"),
        ("", "none", "<think>x</think> a0"),
        ('reasoning_tags: [["[", "]"]]', None, "<think>x</think> a0"),
        ("reasoning_tags: none", '[["<think>", "</think>"]]', "<think>x</think> a0"),
        ("auto_strip_thinking: true", "none", "a0"),
    ],
)
def test_the_tasks_tags_win_over_the_evaluations(
    tmp_path: Path, task_tags: str, evaluation_tags: str | None, expected: str
) -> None:
    write_task(tmp_path, task_tags)
    (score,) = score_sample(load(tmp_path, reasoning_tags=evaluation_tags), 0, ["<think>x</think> a0"])
    assert score.filtered_responses == (expected,)


def test_filters_see_the_reasoning(tmp_path: Path) -> None:
    keys = "filter_list: [{name: n, filter: [{function: regex, regex_pattern: 'a\\d'}, {function: take_first}]}]"
    write_task(tmp_path, keys)
    (score,) = score_sample(load(tmp_path), 0, ["<think>a5</think>a0"])
    assert score.filtered_responses == ("a5",)
