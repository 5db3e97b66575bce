"""One task scored: values, errors, intervals, counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationError, MetricScore, TaskScore
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
from lmms_eval_grpc.engine.scoring.process import FilteredScore, score_sample
from lmms_eval_grpc.engine.stats import intervals
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

KEYS = """
    process_results: !function utils.process
    metric_list: [{metric: m, aggregation: !function utils.total, higher_is_better: true}]
"""
PROCESS = "def process(doc, results):\n    return {'m': len(results[0])}\n"


def aggregate(folder: Path, items: Sequence[Any], keys: str = KEYS, utils: str = "", **settings: Any) -> TaskScore:
    """A task whose samples scored ``items`` in metric m."""
    write_task(folder, keys, utils=PROCESS + utils)
    samples = [ScoredSample(doc_id, (FilteredScore("none", ("x",), {"m": item}),)) for doc_id, item in enumerate(items)]
    return aggregate_task(load(folder, **settings), samples[::-1], asked=len(items) + 1, errored=1, seconds=2.5)


def only(score: TaskScore) -> MetricScore:
    (metric,) = score.metrics
    return metric


def test_a_mean_has_the_t_interval(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = load(tmp_path)
    samples = [ScoredSample(i, score_sample(task, i, [f"a{i % 4}"])) for i in range(6)]
    score = aggregate_task(task, samples, asked=7, errored=1, seconds=1.0)
    metric = only(score)
    values = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    expected = intervals.t_interval(values)
    assert expected is not None
    assert metric == MetricScore(
        name="exact_match",
        filter="none",
        value=pytest.approx(4 / 6),
        standard_error=intervals.mean_standard_error(values),
        confidence_lower=expected.lower,
        confidence_upper=expected.upper,
        confidence_method="t",
        higher_is_better=True,
        sample_count=6,
        legacy_errors={
            "stderr": intervals.mean_standard_error(values),
            "stderr_clt": intervals.mean_standard_error(values),
        },
    )
    assert (score.samples_asked, score.samples_scored, score.samples_errored, score.seconds) == (7, 6, 1, 1.0)


def test_one_sample_has_a_value_and_no_error(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = load(tmp_path)
    metric = only(aggregate_task(task, [ScoredSample(0, score_sample(task, 0, ["a0"]))], 1, 0, 0.0))
    assert (metric.value, metric.standard_error, metric.confidence_lower, metric.confidence_method) == (
        1.0,
        None,
        None,
        "",
    )


def test_no_samples_have_no_metrics(tmp_path: Path) -> None:
    write_task(tmp_path)
    score = aggregate_task(load(tmp_path), [], asked=3, errored=3, seconds=0.0)
    assert (score.metrics, score.samples_scored, score.samples_errored) == ((), 0, 3)


def test_samples_reach_an_aggregation_in_document_order(tmp_path: Path) -> None:
    utils = "def total(items):\n    return float(items == sorted(items)) * items[0]\n"
    assert only(aggregate(tmp_path, [5.0, 6.0, 7.0], utils=utils)).value == 5.0


def test_another_aggregation_is_bootstrapped_itself(tmp_path: Path) -> None:
    utils = "def total(items):\n    print('noise')\n    return 100 * sum(items) / len(items)\n"
    values = [1.0, 0.0] * 50
    metric = only(aggregate(tmp_path, values, utils=utils))
    assert metric.value == 50.0
    assert metric.confidence_method == "bootstrap"
    assert metric.standard_error == pytest.approx(5.0, rel=0.15)
    assert metric.confidence_lower == pytest.approx(40, abs=2)
    assert metric.confidence_upper == pytest.approx(60, abs=2)
    again = only(aggregate(tmp_path, values, utils=utils))
    assert again == metric
    fewer = only(aggregate(tmp_path, values, utils=utils, bootstrap_iters=50))
    assert fewer.standard_error not in (None, metric.standard_error)
    none = only(aggregate(tmp_path, values, utils=utils, bootstrap_iters=0))
    # Not resampled; but the value is the scores' mean in per cent.
    assert (none.value, none.confidence_method) == (50.0, "t")
    spread = "def total(items):\n    return max(items) + sum(items)\n"
    none = only(aggregate(tmp_path, values, utils=spread, bootstrap_iters=0))
    assert (none.value, none.standard_error, none.confidence_method) == (51.0, None, "")


def test_a_slow_first_call_changes_no_error(tmp_path: Path) -> None:
    """It may have imported something, or another process had the processor."""
    total = "    return 100 * sum(items) / len(items)\n"
    once = "import time\ncalls = []\n"
    slow = f"{once}def total(items):\n    calls.append(1)\n    time.sleep(0.1 if len(calls) == 1 else 0)\n{total}"
    values = [1.0, 0.0] * 50
    first = only(aggregate(tmp_path / "slow", values, utils=slow))
    assert first == only(aggregate(tmp_path / "quick", values, utils=f"def total(items):\n{total}"))


def test_an_aggregation_that_cannot_be_resampled_keeps_its_value(tmp_path: Path) -> None:
    utils = "def total(items):\n    assert len(set(items)) == 3\n    items.clear()\n    return 3\n"
    metric = only(aggregate(tmp_path, [1, 2, 3], utils=utils))
    assert (metric.value, metric.standard_error, metric.confidence_method) == (3.0, None, "")


def test_an_aggregation_with_args_runs_once_and_sees_the_command_line(tmp_path: Path) -> None:
    utils = """
calls = []
def total(items, args):
    calls.append(args)
    assert len(calls) == 1
    return args.limit + len(args.output_path) + (args.model == "huggingface")
"""
    output = tmp_path / "out"
    metric = only(aggregate(tmp_path, [1, 2, 3], utils=utils, limit=3, output_dir=output))
    assert metric.value == 4 + len(str(output))
    assert metric.confidence_method == ""


def test_numbers_in_a_mapping_are_scores_of_their_own(tmp_path: Path) -> None:
    utils = "def total(items):\n    return {'easy': 0.5, 'hard': True, 'note': 'text'}\n"
    score = aggregate(tmp_path, [1, 2], utils=utils)
    assert {metric.name: metric.value for metric in score.metrics} == {"m.easy": 0.5, "m.hard": 1.0}


def test_what_is_no_number_is_undefined(tmp_path: Path) -> None:
    metric = only(aggregate(tmp_path, [1, 2], utils="def total(items):\n    return None\n"))
    assert math.isnan(metric.value)
    assert metric.standard_error is None


def test_an_aggregation_that_raises_names_itself(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"aggregation total of metric m \(none\) failed: ZeroDivisionError") as e:
        aggregate(tmp_path, [1, 2], utils="def total(items):\n    return 1 / 0\n")
    assert e.value.reason == "AGGREGATION_FAILED"


def test_bypass_and_median(tmp_path: Path) -> None:
    bypass = only(aggregate(tmp_path / "1", [None, None], keys=KEYS.replace("!function utils.total", "bypass")))
    assert (bypass.value, bypass.confidence_method) == (999.0, "")
    median = only(aggregate(tmp_path / "2", [9, 1, 2], keys=KEYS.replace("!function utils.total", "median")))
    assert (median.value, median.confidence_method) == (2.0, "bootstrap")


def test_a_metric_nobody_scored_is_left_out_and_one_without_aggregation_too(tmp_path: Path) -> None:
    keys = "process_results: !function utils.process\nmetric_list: [{metric: other, aggregation: mean}]"
    assert aggregate(tmp_path, [1, 2], keys=keys).metrics == ()


def test_scores_in_clusters_are_resampled_by_cluster(tmp_path: Path) -> None:
    utils = "def total(items):\n    return sum(item['score'] for item in items) / len(items)\n"
    items = [{"score": float(cluster % 2), "video": cluster} for cluster in range(20) for _ in range(10)]
    clustered = only(aggregate(tmp_path / "1", items, keys=KEYS + "    cluster_key: video\n", utils=utils))
    plain = only(aggregate(tmp_path / "2", items, utils=utils))
    assert (clustered.confidence_method, plain.confidence_method) == ("cluster_bootstrap", "bootstrap")
    assert clustered.standard_error is not None
    assert plain.standard_error is not None
    assert clustered.standard_error > 2 * plain.standard_error


def test_lmms_evals_errors_are_given_where_the_value_is_a_mean(tmp_path: Path) -> None:
    items = [{"score": float(i % 3 == 0), "video": i // 4} for i in range(40)]
    values, clusters = [item["score"] for item in items], [item["video"] for item in items]
    mean = "def total(items):\n    return sum(item['score'] for item in items) / len(items)\n"
    keys = KEYS + "    cluster_key: video\n"
    averaged = only(aggregate(tmp_path / "1", items, keys=keys, utils=mean))
    assert averaged.legacy_errors == {
        "stderr": averaged.standard_error,
        "stderr_clt": intervals.mean_standard_error(values),
        "stderr_clustered": intervals.clustered_standard_error_of_lmms_eval(values, clusters),
    }
    percent = mean.replace("return ", "return 100 * ")
    assert set(only(aggregate(tmp_path / "2", items, keys=keys, utils=percent)).legacy_errors) == {"stderr"}


def test_an_aggregation_with_args_that_is_a_mean_has_the_t_interval(tmp_path: Path) -> None:
    utils = "def total(items, args):\n    return sum(item['score'] for item in items) / len(items)\n"
    items = [{"score": float(i % 3 == 0), "video": i // 4} for i in range(40)]
    values = [item["score"] for item in items]
    plain = only(aggregate(tmp_path / "1", items, utils=utils))
    clustered = only(aggregate(tmp_path / "2", items, keys=KEYS + "    cluster_key: video\n", utils=utils))
    assert (plain.confidence_method, clustered.confidence_method) == ("t", "t_clustered")
    assert plain.standard_error == intervals.mean_standard_error(values)
    assert clustered.standard_error == intervals.clustered_standard_error(values, [i // 4 for i in range(40)])


def test_repeats_give_stability_scores(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = load(tmp_path, repeats=4)
    answers = {0: ["a0"] * 4, 1: ["a1", "a1", "a1", "x"], 2: ["a2", "a2", "x", "x"], 3: ["x"] * 4}
    samples = [ScoredSample(doc_id, score_sample(task, doc_id, given)) for doc_id, given in answers.items()]
    scores = {metric.name: metric for metric in aggregate_task(task, samples, 4, 0, 0.0).metrics}
    assert scores["exact_match"].value == 0.75
    assert scores["exact_match_expected_accuracy"].value == pytest.approx(9 / 16)
    assert scores["exact_match_consensus_accuracy"].value == 0.5
    assert scores["exact_match_internal_variance"].value == pytest.approx((0.25 + 1 / 3) / 4)
    assert scores["exact_match_internal_variance"].higher_is_better is False
    assert scores["exact_match_consistency_rate"].value == 0.5
    assert scores["exact_match_expected_accuracy"].sample_count == 4
    assert scores["exact_match_pass@2"].value == pytest.approx((1 + 1 + (1 - 1 / 6) + 0) / 4)
    assert scores["exact_match_pass@4"].value == 0.75


def test_each_filter_is_scored_by_itself(tmp_path: Path) -> None:
    keys = """
        filter_list:
          - {name: first, filter: [{function: take_first}]}
          - {name: letter, filter: [{function: regex, regex_pattern: 'a.'}, {function: take_first}]}
    """
    write_task(tmp_path, keys)
    task = load(tmp_path)
    samples = [ScoredSample(i, score_sample(task, i, [f"it is a{i}"])) for i in range(3)]
    score = aggregate_task(task, samples, 3, 0, 0.0)
    assert [(metric.filter, metric.value) for metric in score.metrics] == [("first", 0.0), ("letter", 1.0)]


PERCENT = """
def total(items):
    return 100 * sum(item["score"] for item in items) / len(items)
"""


def test_a_mean_in_per_cent_is_bootstrapped_at_once_and_its_error_is_in_per_cent(tmp_path: Path) -> None:
    items = [{"score": float(number % 3 == 0)} for number in range(300)]
    metric = only(aggregate(tmp_path, items, utils=PERCENT))
    # Slower for a hundred thousand samples, were each replicate the task's own function over them.
    error = intervals.mean_standard_error([100 * item["score"] for item in items])
    assert metric.confidence_method == "bootstrap"
    assert metric.standard_error == pytest.approx(error, rel=0.1)
    # lmms-eval's error of the mean is on another scale than the value.
    assert set(metric.legacy_errors) == {"stderr"}


def test_an_aggregation_with_args_in_per_cent_has_the_t_interval_in_per_cent(tmp_path: Path) -> None:
    utils = PERCENT.replace("(items)", "(items, args)", 1)
    metric = only(aggregate(tmp_path, [{"score": 1.0}, {"score": 0.0}, {"score": 1.0}], utils=utils))
    assert metric.confidence_method == "t"
    assert metric.standard_error == pytest.approx(intervals.mean_standard_error([100.0, 0.0, 100.0]), rel=1e-12)


CLUSTERED = KEYS + "    cluster_key: id\n"
MEAN = "def total(items):\n    return sum(item['score'] for item in items) / len(items)\n"


@pytest.mark.parametrize(
    ("ids", "method", "has_clustered"),
    [
        (["a", "a", "b", "b"], "cluster_bootstrap", True),
        ([["x"], ["x"], ["y"], ["y"]], "cluster_bootstrap", True),  # ids that Python cannot hash
        (["a", "a", "b", None], "bootstrap", False),  # one is missing: nobody knows what belongs together
        (["a", "a", "a", "a"], "", False),  # one cluster says nothing of others
    ],
)
def test_cluster_ids_of_every_kind(tmp_path: Path, ids: list[Any], method: str, has_clustered: bool) -> None:
    items = [{"score": score, "id": cluster} for score, cluster in zip([1.0, 1.0, 0.0, 1.0], ids, strict=True)]
    metric = only(aggregate(tmp_path, items, CLUSTERED, MEAN))
    assert metric.value == 0.75
    assert metric.confidence_method == method
    assert ("stderr_clustered" in metric.legacy_errors) is has_clustered


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_score_that_is_no_finite_number_leaves_no_errors(tmp_path: Path, odd: float) -> None:
    keys = KEYS.replace("!function utils.total", "mean")
    metric = only(aggregate(tmp_path, [1.0, odd, 0.0], keys))
    assert not math.isfinite(metric.value)
    assert (metric.standard_error, metric.confidence_lower, metric.legacy_errors) == (None, None, {})


def test_equal_scores_have_an_interval_without_width(tmp_path: Path) -> None:
    metric = only(aggregate(tmp_path, [0.1] * 9, KEYS.replace("!function utils.total", "mean")))
    assert metric.standard_error == pytest.approx(0.0, abs=1e-15)
    assert metric.confidence_method == "t"
    assert (metric.confidence_lower, metric.confidence_upper) == (pytest.approx(0.1), pytest.approx(0.1))
