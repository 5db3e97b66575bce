"""A group of tasks: its members, and which scores over all of them it wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.tasks.functions import Sources, resolve_functions
from lmms_eval_grpc.engine.tasks.resolve import ResolvedGroup
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError

_METRIC_KEYS = frozenset({"metric", "aggregation", "weight_by_size", "filter_list"})


@dataclass(frozen=True, slots=True)
class GroupMetric:
    """One entry of ``aggregate_metric_list``."""

    metric: str
    filters: tuple[str, ...]
    aggregation: Callable[..., Any] | None
    """A function of the group's own, called with (values, sizes, weight_by_size); None: the mean."""
    weight_by_size: bool
    """Whether tasks count by their samples, or all alike."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group as :func:`build_group` makes it."""

    name: str
    alias: str
    version: str
    members: tuple[str, ...]
    """Tasks and groups directly below, in their order."""
    metrics: tuple[GroupMetric, ...]
    """Empty: the group is a heading and has no scores."""


def build_group(resolved: ResolvedGroup) -> Group:
    """Raises TaskFileError for an ``aggregate_metric_list`` that makes no sense."""
    values = resolve_functions(resolved.values, Sources())
    metadata = values.get("metadata")
    version = metadata.get("version") if isinstance(metadata, Mapping) else None
    listed = values.get("aggregate_metric_list") or []
    entries = [listed] if isinstance(listed, Mapping) else listed
    if not isinstance(entries, list):
        raise _wrong(resolved, f"aggregate_metric_list must be a list of mappings, but is {listed!r:.200}")
    return Group(
        name=resolved.name,
        alias=str(values.get("group_alias") or resolved.name),
        version="Yaml" if version is None else str(version),
        members=resolved.members,
        metrics=tuple(_build_metric(resolved, entry) for entry in entries),
    )


def _build_metric(resolved: ResolvedGroup, entry: Any) -> GroupMetric:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("metric"), str):
        raise _wrong(resolved, f"an entry of aggregate_metric_list needs a metric, but is {entry!r:.200}")
    unknown = sorted(set(entry) - _METRIC_KEYS)
    if unknown:
        raise _wrong(resolved, f"unknown keys in aggregate_metric_list: {', '.join(map(str, unknown))}")
    aggregation = entry.get("aggregation", "mean")
    if aggregation != "mean" and not callable(aggregation):
        raise _wrong(resolved, f"aggregation must be mean or a function, but is {aggregation!r}")
    filters = entry.get("filter_list", "none")
    filters = [filters] if isinstance(filters, str) else filters
    if not isinstance(filters, list) or not all(isinstance(name, str) for name in filters):
        raise _wrong(resolved, f"filter_list must be a name or a list of names, but is {filters!r}")
    return GroupMetric(
        metric=entry["metric"],
        filters=tuple(filters),
        aggregation=aggregation if callable(aggregation) else None,
        weight_by_size=bool(entry.get("weight_by_size", False)),
    )


def _wrong(resolved: ResolvedGroup, message: str) -> TaskFileError:
    return TaskFileError(f"group {resolved.name} ({resolved.source}): {message}")
