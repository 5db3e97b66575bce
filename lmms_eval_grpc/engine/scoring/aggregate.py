"""Scoring one task: its samples' scores aggregated, with a standard error and an interval where one can be had."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError, MetricScore, TaskScore
from lmms_eval_grpc.engine.scoring import aggregations
from lmms_eval_grpc.engine.scoring.metrics import Metric
from lmms_eval_grpc.engine.scoring.process import FilteredScore
from lmms_eval_grpc.engine.scoring.stability import stability_scores
from lmms_eval_grpc.engine.stats import bootstrap, intervals
from lmms_eval_grpc.engine.tasks.task import Task

_log = logging.getLogger(__name__)

_FEW_REPLICATES = 200
"""Of a slow aggregation."""
_BOOTSTRAP_SECONDS = 5.0
"""A task's own aggregation may be slow; its interval is not worth waiting longer for."""
_SCALES = (1.0, 100.0)
"""What means are multiplied by: many tasks report per cent."""
_TRIALS, _TRIAL_SECONDS = 3, 1.0
"""Further calls to find out how slow it is, and how long they may take together."""
_DRAW_SECONDS = 2e-7
"""About what drawing one item costs."""


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One document and its scores, one per filter pipeline, as :func:`.process.score_sample` returned them.

    For samples answered in an earlier attempt, call that again with the recorded responses: scores that went through
    JSON have lost the difference between a tuple and a list.
    """

    doc_id: int
    scores: tuple[FilteredScore, ...]


def aggregate_task(
    task: Task, samples: Sequence[ScoredSample], asked: int, errored: int, seconds: float, *, skipped: int = 0
) -> TaskScore:
    """The outcome of ``task`` over its scored ``samples``, in whatever order they come: they are sorted by document.

    ``asked``, ``errored`` and ``skipped`` count the samples that were to be scored, those that could not be and those
    that were left out; ``seconds`` is the task's wall time.

    A metric whose aggregation is a mean has the t interval, one with another aggregation the bootstrap of that
    aggregation, and with several responses per document how stable they are is scored too. Aggregations with a
    parameter ``args`` often write files, so they run once only; they have the t interval where their value is the mean
    of the samples' scores, also in per cent, else none. One that returns a mapping gives one score per number in it,
    named ``metric.key``. Metrics that no sample has a score of are left out.

    Raises EvaluationError AGGREGATION_FAILED when an aggregation raises.
    """
    ordered = sorted(samples, key=lambda sample: sample.doc_id)
    by_filter: dict[str, list[FilteredScore]] = {pipeline.name: [] for pipeline in task.pipelines}
    for sample in ordered:
        for score in sample.scores:
            by_filter.setdefault(score.filter, []).append(score)
    metrics = [
        result
        for name, scores in by_filter.items()
        for metric in task.metrics
        for result in _metric_scores(task, metric, name, scores)
    ]
    return TaskScore(
        task=task.name,
        version=task.version,
        metrics=tuple(metrics),
        samples_asked=asked,
        samples_scored=len(ordered),
        samples_errored=errored,
        seconds=seconds,
        samples_skipped=skipped,
    )


def _metric_scores(task: Task, metric: Metric, name: str, scores: Sequence[FilteredScore]) -> Iterator[MetricScore]:
    items = [score.scores[metric.name] for score in scores if metric.name in score.scores]
    if not items:
        return
    started = time.perf_counter()
    try:
        value = _call(task, metric, items)
    except Exception as error:
        message = (
            f"task {task.name}: aggregation {metric.aggregation_name} of metric {metric.name} ({name}) failed: "
            f"{type(error).__name__}: {error}"
        )
        raise EvaluationError("AGGREGATION_FAILED", message) from error
    seconds = time.perf_counter() - started
    for key, number in _numbers(value):
        # One interval per aggregation: those of many numbers are rare, and each would cost a bootstrap of its own.
        spread = _NO_SPREAD if key or not math.isfinite(number) else _spread(task, metric, items, number, seconds)
        yield MetricScore(
            name=f"{metric.name}.{key}" if key else metric.name,
            filter=name,
            value=number,
            standard_error=spread.error,
            confidence_lower=spread.interval.lower if spread.interval else None,
            confidence_upper=spread.interval.upper if spread.interval else None,
            confidence_method=spread.method if spread.interval else "",
            higher_is_better=metric.higher_is_better,
            sample_count=len(items),
            legacy_errors={} if key else _legacy_errors(task, metric, items, number, spread),
        )
    yield from stability_scores(metric.name, name, _repeats(task, metric, scores), metric.higher_is_better)


@dataclass(frozen=True, slots=True)
class _Spread:
    """How far a value may be off; nothing where that cannot be told."""

    error: float | None = None
    interval: intervals.Interval | None = None
    method: str = ""


_NO_SPREAD = _Spread()


def _spread(task: Task, metric: Metric, items: list[Any], value: float, seconds: float) -> _Spread:
    clusters = _clusters(task, items)
    if metric.aggregation is not aggregations.mean:
        spread = _bootstrap(task, metric, items, value, clusters, seconds)
        if spread.method:
            return spread
    means = _averaged(task, items, value, _SCALES)
    if means is None:
        return _NO_SPREAD
    if clusters is None:
        spread = _Spread(intervals.mean_standard_error(means), intervals.t_interval(means), "t")
    else:
        error = intervals.clustered_standard_error(means, clusters)
        spread = _Spread(error, intervals.clustered_t_interval(means, clusters), "t_clustered")
    # An unknown aggregation of equal scores can be their mean by chance.
    return spread if spread.error or metric.aggregation is aggregations.mean else _NO_SPREAD


def _legacy_errors(task: Task, metric: Metric, items: list[Any], value: float, spread: _Spread) -> dict[str, float]:
    """lmms-eval's three standard errors, where they are of ``value``.

    It gives the last two for any aggregation, whatever that computes and on whatever scale. They are standard errors of
    the mean of the samples' scores, so here they are given where ``value`` is that mean.
    """
    errors = {"stderr": spread.error}
    means = _averaged(task, items, value)
    if means is not None:
        errors["stderr_clt"] = intervals.mean_standard_error(means)
        if metric.aggregation is aggregations.mean:
            errors["stderr"] = errors["stderr_clt"]
        clusters = _clusters(task, items)
        if clusters is not None:
            errors["stderr_clustered"] = intervals.clustered_standard_error_of_lmms_eval(means, clusters)
    return {name: error for name, error in errors.items() if error is not None and math.isfinite(error)}


def _averaged(task: Task, items: list[Any], value: float, scales: Sequence[float] = (1.0,)) -> list[float] | None:
    """The samples' numbers (of mappings, those under the task's score_key), multiplied by the one of ``scales`` with
    which ``value`` is their mean; None where it is not."""
    scores = [_number(item.get(task.config.score_key) if isinstance(item, Mapping) else item) for item in items]
    numbers = [score for score in scores if score is not None]
    if len(numbers) != len(scores):
        return None
    mean = aggregations.mean(numbers)
    scale = next((s for s in scales if math.isclose(s * mean, value, rel_tol=1e-9, abs_tol=1e-12)), None)
    return None if scale is None else [scale * number for number in numbers]


def _bootstrap(
    task: Task, metric: Metric, items: list[Any], value: float, clusters: list[Hashable] | None, seconds: float
) -> _Spread:
    most = task.evaluation.bootstrap_iters
    if most <= 0 or metric.aggregation is aggregations.bypass or _wants_arguments(metric.aggregation):
        return _NO_SPREAD
    each = _quickest(metric, items, seconds, most) + len(items) * _DRAW_SECONDS
    sizes = (most, min(most, _FEW_REPLICATES))
    replicates = next((size for size in sizes if size * each <= _BOOTSTRAP_SECONDS), 0)
    means = _averaged(task, items, value, _SCALES)
    seed = task.evaluation.seed[0] or 0
    try:
        with _quiet():
            estimate = None
            # Most tasks' own aggregations are means after all, many of them in per cent.
            if means is not None and bootstrap.TRIALS * each <= _BOOTSTRAP_SECONDS:
                estimate = bootstrap.mean_bootstrap(
                    items, metric.aggregation, means, replicates=most, seed=seed, clusters=clusters
                )
            if estimate is None and replicates:
                estimate = bootstrap.percentile_bootstrap(
                    items, metric.aggregation, replicates=replicates, seed=seed, clusters=clusters
                )
    except Exception as error:
        # The value itself stands; an aggregation may rely on every sample being there once.
        _log.info("task %s: %s cannot be resampled, so it has no interval: %s", task.name, metric.name, error)
        return _NO_SPREAD
    if estimate is None:
        return _NO_SPREAD
    return _Spread(estimate.standard_error, estimate.interval, "bootstrap" if clusters is None else "cluster_bootstrap")


def _quickest(metric: Metric, items: list[Any], seconds: float, replicates: int) -> float:
    """Seconds that the aggregation takes, of which the first call took ``seconds``.

    Where that is too long for so many ``replicates`` it is called again, and the quickest call counts: the first may
    have imported something, and a busy machine must not change a standard error.
    """
    began = time.perf_counter()
    for _ in range(_TRIALS):
        if seconds * replicates <= _BOOTSTRAP_SECONDS / 2 or seconds > _TRIAL_SECONDS:
            break
        started = time.perf_counter()
        with _quiet(), contextlib.suppress(Exception):
            metric.aggregation(list(items))
        ended = time.perf_counter()
        seconds = min(seconds, ended - started)
        if ended - began > _TRIAL_SECONDS:
            break
    return seconds


def _call(task: Task, metric: Metric, items: list[Any]) -> Any:
    """The aggregation's value over a copy of ``items``, which it may sort or empty."""
    if _wants_arguments(metric.aggregation):
        return metric.aggregation(list(items), args=task.aggregation_arguments)
    return metric.aggregation(list(items))


def _wants_arguments(aggregation: Callable[..., Any]) -> bool:
    try:
        return "args" in inspect.signature(aggregation).parameters
    except (TypeError, ValueError):  # built-in functions may have no signature
        return False


def _numbers(value: Any) -> Iterator[tuple[str, float]]:
    """``value`` as (key, number): one number without a key, or those of a mapping; NaN for what is no number."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            number = _number(item)
            if number is not None:
                yield str(key), number
        return
    number = _number(value)
    yield "", math.nan if number is None else number


def _number(value: Any) -> float | None:
    """A number of any library's, a truth value included, as float; None for anything else."""
    if isinstance(value, str | bytes) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _clusters(task: Task, items: list[Any]) -> list[Hashable] | None:
    """Each item's cluster id where the task names the key and every item, then a mapping, has it; else None."""
    key = task.config.cluster_key
    if key is None or not all(isinstance(item, Mapping) and item.get(key) is not None for item in items):
        return None
    return [cluster_id(item[key]) for item in items]


def cluster_id(value: Any) -> Hashable:
    """``value`` as an id; one that is no id by itself, as a list is not, by its text."""
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value  # type: ignore[no-any-return]


def _repeats(task: Task, metric: Metric, scores: Sequence[FilteredScore]) -> list[list[float]]:
    """Per document the number that each of its repeats scored; empty unless all documents have such numbers."""
    documents = []
    for score in scores:
        values = [repeat.get(metric.name) for repeat in score.repeat_scores]
        numbers = [_number(v.get(task.config.score_key) if isinstance(v, Mapping) else v) for v in values]
        if len(numbers) < 2 or None in numbers:
            return []
        documents.append([number for number in numbers if number is not None])
    return documents


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what an aggregation logs and prints; a thousand replicates would say it a thousand times."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
