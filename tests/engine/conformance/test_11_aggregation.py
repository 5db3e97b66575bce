"""11. Aggregation: functions with and without ``args``; standard errors against lmms-eval's formulas; t interval."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import MetricScore
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
from lmms_eval_grpc.engine.scoring.process import FilteredScore
from lmms_eval_grpc.engine.stats import intervals
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]


def scores(seed: int, clusters: int = 15, each: int = 4) -> tuple[list[float], list[int]]:
    """Right or wrong, alike within a cluster more often than not."""
    generator = random.Random(seed)
    values, owners = [], []
    for cluster in range(clusters):
        level = generator.random()
        for _ in range(each):
            values.append(float(generator.random() < level))
            owners.append(cluster)
    return values, owners


def error_by_definition(values: Sequence[float]) -> float:
    """Of lmms-eval: sample standard deviation over root n."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / math.sqrt(len(values))


def clustered_error_by_definition(values: Sequence[float], clusters: Sequence[int]) -> float:
    """Of lmms-eval: Miller 2024, equation 4, every ordered pair within a cluster written out."""
    mean, count = sum(values) / len(values), len(values)
    members = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        members[cluster].append(value - mean)
    cross = sum(a * b for group in members.values() for i, a in enumerate(group) for j, b in enumerate(group) if i != j)
    return math.sqrt(error_by_definition(values) ** 2 + cross / count**2)


@pytest.mark.parametrize("seed", range(5))
def test_standard_errors_equal_lmms_evals(seed: int) -> None:
    values, clusters = scores(seed)
    assert intervals.mean_standard_error(values) == pytest.approx(error_by_definition(values), abs=1e-12)
    theirs = clustered_error_by_definition(values, clusters)
    assert intervals.clustered_standard_error_of_lmms_eval(values, clusters) == pytest.approx(theirs, abs=1e-12)
    # Ours has the factor for finitely many clusters, and is the same but for that and a term in 1/n².
    ours = intervals.clustered_standard_error(values, clusters)
    spread = error_by_definition(values) ** 2 * len(values)
    expected = math.sqrt((theirs**2 - spread / len(values) ** 2) * 15 / 14)
    assert ours == pytest.approx(expected, abs=1e-12)


def aggregate(folder: Path, function: str, items: Sequence[object], keys: str = "") -> MetricScore:
    utils = f"def process(doc, results):\n    return {{'m': 1}}\n\n\n{function}\n"
    yaml = f"""
        process_results: !function utils.process
        metric_list: [{{metric: m, aggregation: !function utils.total, higher_is_better: true}}]
        {keys}
    """
    write_task(folder, yaml, utils=utils)
    samples = [ScoredSample(i, (FilteredScore("none", ("x",), {"m": item}),)) for i, item in enumerate(items)]
    (metric,) = aggregate_task(load(folder), samples, len(items), 0, 0.0).metrics
    return metric


def test_a_function_without_args_is_resampled_itself(tmp_path: Path) -> None:
    values, _ = scores(1)
    metric = aggregate(tmp_path, "def total(items):\n    return 100 * sum(items) / len(items)", values)
    assert metric.value == pytest.approx(100 * sum(values) / len(values))
    assert metric.confidence_method == "bootstrap"
    assert metric.standard_error == pytest.approx(100 * error_by_definition(values), rel=0.1)
    assert "stderr_clt" not in metric.legacy_errors  # of another scale than the value


def test_a_function_with_args_gets_them_and_runs_once(tmp_path: Path) -> None:
    function = """
        calls = []

        def total(items, args):
            calls.append(1)
            assert len(calls) == 1
            assert args.model == "huggingface"
            return sum(items) / len(items)
    """
    values, _ = scores(2)
    metric = aggregate(tmp_path, "\n".join(line[8:] for line in function.splitlines()), values)
    interval = intervals.t_interval(values)
    assert interval is not None
    assert metric.confidence_method == "t"
    assert (metric.confidence_lower, metric.confidence_upper) == (interval.lower, interval.upper)


def test_the_t_interval_of_a_known_sample() -> None:
    # Mean 0.7, standard error 0.152753, t quantile of 9 degrees of freedom 2.262157.
    interval = intervals.t_interval([1.0] * 7 + [0.0] * 3)
    assert interval is not None
    assert (interval.lower, interval.upper) == (pytest.approx(0.354450, abs=1e-6), pytest.approx(1.045550, abs=1e-6))


def test_clusters_widen_the_interval(tmp_path: Path) -> None:
    values, clusters = scores(3)
    items = [{"score": value, "video": cluster} for value, cluster in zip(values, clusters, strict=True)]
    function = "def total(items):\n    return sum(item['score'] for item in items) / len(items)"
    plain = aggregate(tmp_path / "1", function, items)
    clustered = aggregate(tmp_path / "2", function, items, keys="cluster_key: video")
    assert (plain.confidence_method, clustered.confidence_method) == ("bootstrap", "cluster_bootstrap")
    assert plain.standard_error is not None
    assert clustered.standard_error is not None
    assert clustered.standard_error > 1.2 * plain.standard_error
    assert clustered.legacy_errors["stderr_clustered"] == pytest.approx(clustered_error_by_definition(values, clusters))
