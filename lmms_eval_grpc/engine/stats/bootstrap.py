"""The bootstrap, for aggregations about which nothing is known but their value."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lmms_eval_grpc.engine.stats.intervals import CONFIDENCE, Interval

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BootstrapEstimate:
    """How an aggregation varies when the samples are drawn anew."""

    standard_error: float
    """Standard deviation (n - 1) of the replicates."""
    interval: Interval


def percentile_bootstrap(
    items: Sequence[T],
    aggregate: Callable[[list[T]], float],
    *,
    replicates: int = 1000,
    seed: int = 1234,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> BootstrapEstimate | None:
    """The percentile interval of ``aggregate`` itself over ``items`` drawn with replacement.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. With ``clusters`` (an id for each item)
    whole clusters are drawn. The same seed gives the same numbers.

    None for fewer than two items or clusters, and when a replicate is not finite, for then the interval means nothing.
    """
    units = _units(items, clusters)
    if len(units) < 2 or replicates < 2:
        return None
    generator = random.Random(seed)
    values = []
    for _ in range(replicates):
        value = float(aggregate([item for unit in generator.choices(units, k=len(units)) for item in unit]))
        if not math.isfinite(value):
            return None
        values.append(value)
    values.sort()
    tail = (1 - confidence) / 2
    return BootstrapEstimate(
        statistics.stdev(values), Interval(_percentile(values, tail), _percentile(values, 1 - tail))
    )


def _units(items: Sequence[T], clusters: Sequence[Hashable] | None) -> list[list[T]]:
    if clusters is None:
        return [[item] for item in items]
    units: dict[Hashable, list[T]] = {}
    for item, cluster in zip(items, clusters, strict=True):
        units.setdefault(cluster, []).append(item)
    return list(units.values())


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours, as numpy's default."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
