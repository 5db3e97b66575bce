"""Scoring a group: the scores of its tasks put together, with a standard error where all of them have one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lmms_eval_grpc.engine.api import EvaluationError, GroupScore, MetricScore, TaskScore
from lmms_eval_grpc.engine.stats.groups import (
    group_mean,
    group_standard_error,
    group_weights,
    pooled_standard_error,
)
from lmms_eval_grpc.engine.tasks.group import Group, GroupMetric


def aggregate_groups(groups: Sequence[Group], scores: Sequence[TaskScore]) -> tuple[GroupScore, ...]:
    """The outcome of each group, in their order. Groups without metrics of their own have none here either.

    A group's metric is made of the tasks below it, at any depth, that have a metric of exactly that name with exactly
    that filter. Raises EvaluationError AGGREGATION_FAILED when a group's own function raises.
    """
    by_name = {group.name: group for group in groups}
    by_task = {score.task: score for score in scores}
    return tuple(_aggregate(group, [by_task[name] for name in leaves(group, by_name)]) for group in groups)


def leaves(group: Group, groups: Mapping[str, Group]) -> tuple[str, ...]:
    """The tasks below ``group``, at any depth, in their order, each once."""
    found: dict[str, None] = {}
    for member in group.members:
        inner = groups.get(member)
        found.update(dict.fromkeys(leaves(inner, groups) if inner is not None else (member,)))
    return tuple(found)


def _aggregate(group: Group, scores: Sequence[TaskScore]) -> GroupScore:
    metrics = tuple(score for metric in group.metrics for score in _metric_scores(group, metric, scores))
    return GroupScore(
        group=group.name,
        alias=group.alias,
        version=group.version,
        members=group.members,
        metrics=metrics,
        sample_count=sum(score.samples_scored for score in scores),
    )


def _metric_scores(group: Group, metric: GroupMetric, scores: Sequence[TaskScore]) -> Iterator[MetricScore]:
    for name in metric.filters:
        found = [
            item for score in scores for item in score.metrics if item.name == metric.metric and item.filter == name
        ]
        if found:
            yield _metric_score(group, metric, name, found)


def _metric_score(group: Group, metric: GroupMetric, name: str, found: Sequence[MetricScore]) -> MetricScore:
    values, sizes = [item.value for item in found], [item.sample_count for item in found]
    directions = {item.higher_is_better for item in found}
    errors = [item.standard_error for item in found]
    legacy: dict[str, float] = {}
    error = None
    try:
        if metric.aggregation is None:
            weights = group_weights(sizes, metric.weight_by_size)
            value = group_mean(values, weights)
            error = group_standard_error(errors, weights)
        else:
            value = float(metric.aggregation(values, sizes, metric.weight_by_size))
    except Exception as failure:
        message = f"group {group.name}: metric {metric.metric} ({name}): {type(failure).__name__}: {failure}"
        raise EvaluationError("AGGREGATION_FAILED", message) from failure
    pooled = pooled_standard_error(errors, sizes)
    if error is not None:
        legacy["stderr"] = error
    if pooled is not None:
        legacy["stderr_pooled"] = pooled
    return MetricScore(
        name=metric.metric,
        filter=name,
        value=value,
        standard_error=error,
        higher_is_better=directions.pop() if len(directions) == 1 else None,
        sample_count=sum(sizes),
        legacy_errors=legacy,
    )
