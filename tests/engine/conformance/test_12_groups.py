"""12. Groups: weighted and unweighted, nested, exact match of metric and filter, the formula of the standard error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError, EvaluationOutcome, GroupScore
from lmms_eval_grpc.engine.run.evaluate import evaluate
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task, write_yaml

__all__ = ["datasets_cache"]

METRICS = """
    metric_list:
      - {metric: exact_match, aggregation: mean, higher_is_better: true}
    filter_list:
      - {name: none, filter: [{function: take_first}]}
      - {name: upper, filter: [{function: uppercase}, {function: take_first}]}
"""


def write_tasks(folder: Path) -> None:
    """``a`` has 4 documents, 1 answered right; ``b`` has 8, 6 right; in capitals none is right."""
    for name, size, right in (("a", 4, 1), ("b", 8, 6)):
        rows = [{"question": f"q{n}", "answer": f"q{n}" if n < right else "x"} for n in range(size)]
        write_task(folder, METRICS, name=name, documents=rows)


def run(folder: Path, *names: str) -> EvaluationOutcome:
    config = EvaluationConfig("huggingface", names, {"pretrained": "none"}, include_paths=(folder,))
    return evaluate(config, folder / "run", Recorder(), backend=ScriptedBackend(lambda text: text))


def group(outcome: EvaluationOutcome, name: str) -> GroupScore:
    return next(score for score in outcome.groups if score.group == name)


def standard_error(right: int, size: int) -> float:
    mean = right / size
    variance = (right * (1 - mean) ** 2 + (size - right) * mean**2) / (size - 1)
    return math.sqrt(variance / size)


@pytest.mark.parametrize(("by_size", "weights"), [(False, (1 / 2, 1 / 2)), (True, (4 / 12, 8 / 12))])
def test_a_group_is_the_weighted_mean_with_its_own_standard_error(
    tmp_path: Path, by_size: bool, weights: tuple[float, float]
) -> None:
    write_tasks(tmp_path)
    text = f"""
        group: g
        group_alias: The group
        task: [a, b]
        aggregate_metric_list: [{{metric: exact_match, weight_by_size: {by_size}}}]
        metadata: {{version: 3}}
    """
    write_yaml(tmp_path, "g.yaml", text)
    score = group(run(tmp_path, "g"), "g")
    (metric,) = score.metrics
    assert (score.alias, score.version, score.members, score.sample_count) == ("The group", "3", ("a", "b"), 12)
    assert (metric.name, metric.filter, metric.sample_count, metric.higher_is_better) == (
        "exact_match",
        "none",
        12,
        True,
    )
    assert metric.value == pytest.approx(weights[0] * 1 / 4 + weights[1] * 6 / 8)
    expected = math.hypot(weights[0] * standard_error(1, 4), weights[1] * standard_error(6, 8))
    assert metric.standard_error == pytest.approx(expected)


def test_metric_and_filter_must_match_exactly(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    write_yaml(
        tmp_path, "g.yaml", "group: g\ntask: [a, b]\naggregate_metric_list: [{metric: exact, filter_list: none}]\n"
    )
    write_yaml(
        tmp_path,
        "h.yaml",
        "group: h\ntask: [a, b]\naggregate_metric_list: {metric: exact_match, filter_list: [upper, nothing]}\n",
    )
    outcome = run(tmp_path, "g", "h")
    assert group(outcome, "g").metrics == ()
    (metric,) = group(outcome, "h").metrics
    assert (metric.filter, metric.value) == ("upper", 0.0)


def test_an_outer_group_covers_the_tasks_of_inner_ones(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    write_yaml(tmp_path, "inner.yaml", "group: inner\ntask: [a]\naggregate_metric_list: [{metric: exact_match}]\n")
    write_yaml(
        tmp_path, "outer.yaml", "group: outer\ntask: [inner, b]\naggregate_metric_list: [{metric: exact_match}]\n"
    )
    outcome = run(tmp_path, "outer")
    assert [score.group for score in outcome.groups] == ["outer", "inner"]
    assert group(outcome, "outer").members == ("inner", "b")
    assert group(outcome, "outer").metrics[0].value == pytest.approx((1 / 4 + 6 / 8) / 2)
    assert group(outcome, "inner").metrics[0].value == 1 / 4


def test_a_group_may_have_an_aggregation_of_its_own(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    (tmp_path / "utils.py").write_text(
        "def best(values, sizes, weight_by_size):\n    return max(zip(values, sizes))[1]\n"
    )
    text = """
        group: g
        task: [a, b]
        aggregate_metric_list: [{metric: exact_match, aggregation: !function utils.best}]
    """
    write_yaml(tmp_path, "g.yaml", text)
    (metric,) = group(run(tmp_path, "g"), "g").metrics
    assert (metric.value, metric.standard_error) == (8.0, None)


def test_a_group_without_metrics_is_a_heading(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    write_yaml(tmp_path, "g.yaml", "group: g\ntask: [a]\n")
    outcome = run(tmp_path, "g")
    assert group(outcome, "g").metrics == ()
    assert outcome.results_document["results"]["g"] == {" ": " ", "alias": "g"}
    assert "groups" not in outcome.results_document


def test_the_results_document_has_groups_where_lmms_eval_has_them(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    write_yaml(tmp_path, "g.yaml", "group: g\ntask: [a, b]\naggregate_metric_list: [{metric: exact_match}]\n")
    document = run(tmp_path, "g").results_document
    assert document["groups"]["g"] == document["results"]["g"]
    assert document["groups"]["g"]["exact_match,none"] == pytest.approx(0.5)
    assert document["groups"]["g"]["exact_match_stderr,none"] > 0
    assert document["groups"]["g"]["samples"] == 12
    assert document["group_subtasks"]["g"] == ["a", "b"]
    assert document["higher_is_better"]["g"] == {"exact_match": True}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("[{aggregation: mean}]", "needs a metric"),
        ("[{metric: m, aggregation: median}]", "aggregation must be mean or a function"),
        ("[{metric: m, weigh: true}]", "unknown keys in aggregate_metric_list: weigh"),
        ("text", "must be a list of mappings"),
    ],
)
def test_what_a_group_cannot_mean_is_said(tmp_path: Path, metrics: Any, message: str) -> None:
    write_tasks(tmp_path)
    write_yaml(tmp_path, "g.yaml", f"group: g\ntask: [a]\naggregate_metric_list: {metrics}\n")
    with pytest.raises(EvaluationError, match=message):
        run(tmp_path, "g")
