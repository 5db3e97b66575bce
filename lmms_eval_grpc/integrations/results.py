"""What became of checkpoints, and which is the best of them: values only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmms_eval_grpc.trackers.logs import DEFAULT_LANE, metric_key, score_name
from lmms_eval_grpc.v1 import job_pb2


@dataclass(frozen=True, slots=True)
class MetricScore:
    """One metric of one task, or group, at one checkpoint."""

    task: str
    name: str
    filter: str
    value: float
    standard_error: float | None
    lower: float | None
    """Lower end of the 95 % interval; None when there is none."""
    upper: float | None
    higher_is_better: bool | None = None
    """None: the task does not say."""

    @property
    def key(self) -> str:
        """How the metric is asked for: ``task/metric``, or ``task/metric,filter``."""
        return f"{self.task}/{metric_key(self.name, self.filter)}"


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """What became of one checkpoint. Times are seconds since the epoch, 0 while they have not come."""

    step: int
    checkpoint: str
    """The folder that the job reads: the checkpoint, or the copy of it that is kept meanwhile."""
    job_id: str = ""
    state: str = "submitting"
    """``submitting``, a state of the job in lower case, or ``not submitted`` and ``lost`` when the server was away."""
    metrics: tuple[MetricScore, ...] = ()
    """Of the tasks that are finished so far."""
    submitted: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    samples_per_second: float = 0.0
    error: str = ""
    lane: str = DEFAULT_LANE
    """Which evaluation of the checkpoint this is."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("completed", "failed", "cancelled", "not submitted", "lost")

    def find(self, metric: str) -> MetricScore | None:
        """The metric with this key, if it has come and is a number."""
        found = next((score for score in self.metrics if score.key == metric), None)
        return None if found is None or math.isnan(found.value) else found


@dataclass(frozen=True, slots=True)
class StepScores:
    """Scores that have just come in, and the training step that they belong to."""

    step: int
    lane: str
    scores: Mapping[str, float]
    """By the name that they have in every tracker, such as ``eval_service/mme/score``."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint by a metric."""

    result: CheckpointResult
    value: float
    later: int
    """Checkpoints of later steps that have a value and did not improve on it."""


def find_best(
    results: Iterable[CheckpointResult],
    metric: str,
    *,
    lane: str = DEFAULT_LANE,
    greater_is_better: bool | None = None,
    min_delta: float = 0.0,
) -> Best | None:
    """The checkpoint that no later one improved on by more than ``min_delta``; None while there is no value.

    Args:
        metric: ``task/metric`` or ``task/metric,filter``.
        greater_is_better: None: as the task says, and if it does not, greater is.
    """
    best: Best | None = None
    for result in sorted((r for r in results if r.lane == lane), key=lambda r: r.step):
        score = result.find(metric)
        if score is None:
            continue
        greater = score.higher_is_better is not False if greater_is_better is None else greater_is_better
        gain = 0.0 if best is None else (score.value - best.value) * (1 if greater else -1)
        if best is None or gain > min_delta:
            best = Best(result, score.value, 0)
        else:
            best = Best(best.result, best.value, best.later + 1)
    return best


def to_scores(step: int, lane: str, metrics: Sequence[MetricScore]) -> StepScores:
    """``metrics`` by the names that trackers show."""
    named = {score_name(lane, m.task, metric_key(m.name, m.filter)): m.value for m in metrics}
    return StepScores(step, lane, named)


def read_metrics(task: str, metrics: Iterable[job_pb2.Metric]) -> tuple[MetricScore, ...]:
    """The service's metrics of a task or a group."""
    return tuple(_read_metric(task, metric) for metric in metrics)


def _read_metric(task: str, metric: job_pb2.Metric) -> MetricScore:
    has_interval = metric.HasField("confidence_interval")
    return MetricScore(
        task=task,
        name=metric.name,
        filter=metric.filter,
        value=metric.value,
        standard_error=metric.standard_error if metric.HasField("standard_error") else None,
        lower=metric.confidence_interval.lower if has_interval else None,
        upper=metric.confidence_interval.upper if has_interval else None,
        higher_is_better=metric.higher_is_better if metric.HasField("higher_is_better") else None,
    )
