"""The bootstrap, for aggregations about which nothing is known but their value."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lmms_eval_grpc.engine.stats.intervals import CONFIDENCE, Interval

T = TypeVar("T")

_TRIALS = 20
"""Replicates in which an aggregation must equal the mean before it is taken for it."""
_CHUNK = 1 << 20
"""Numbers that are drawn at once."""


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
    averaged: Sequence[float] | None = None,
) -> BootstrapEstimate | None:
    """The percentile interval of ``aggregate`` itself over ``items`` drawn with replacement.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. With ``clusters`` (an id for each item)
    whole clusters are drawn. The same seed gives the same numbers.

    ``averaged`` are numbers, one per item, of which ``aggregate`` may be the mean: if it is that in the first
    replicates, the others are computed all at once, with the same outcome.

    None for fewer than two items or clusters, and when a replicate is not finite, for then the interval means nothing.
    """
    import numpy  # late: this module is light to import

    units = _units(len(items), clusters)
    if len(units) < 2 or replicates < 2:
        return None
    generator = numpy.random.default_rng(seed)
    trials = replicates if averaged is None else min(_TRIALS, replicates)
    values = []
    is_mean = averaged is not None
    for number in range(replicates):
        if number >= trials and is_mean:
            break
        drawn = [item for unit in generator.integers(0, len(units), len(units)).tolist() for item in units[unit]]
        value = float(aggregate([items[position] for position in drawn]))
        if not math.isfinite(value):
            return None
        values.append(value)
        if is_mean and averaged is not None:
            mean = math.fsum(averaged[position] for position in drawn) / len(drawn)
            is_mean = math.isclose(value, mean, rel_tol=1e-9, abs_tol=1e-12)
    if averaged is not None:
        for means in _means(averaged, units, replicates - len(values), generator):
            values.extend(means)
    if not all(map(math.isfinite, values)):
        return None
    tail = (1 - confidence) / 2
    lower, upper = numpy.quantile(values, (tail, 1 - tail))
    return BootstrapEstimate(float(numpy.std(values, ddof=1)), Interval(float(lower), float(upper)))


def _units(count: int, clusters: Sequence[Hashable] | None) -> list[tuple[int, ...]]:
    """The positions of what is drawn together."""
    if clusters is None:
        return [(position,) for position in range(count)]
    units: dict[Hashable, list[int]] = {}
    for position, cluster in zip(range(count), clusters, strict=True):
        units.setdefault(cluster, []).append(position)
    return [tuple(unit) for unit in units.values()]


def _means(
    values: Sequence[float], units: Sequence[tuple[int, ...]], replicates: int, generator: Any
) -> Iterator[list[float]]:
    """The means of ``replicates`` draws, as the generator goes on drawing them."""
    import numpy

    sums = numpy.array([math.fsum(values[position] for position in unit) for unit in units])
    sizes = numpy.array([len(unit) for unit in units])
    rows = max(1, _CHUNK // len(units))
    for start in range(0, replicates, rows):
        drawn = generator.integers(0, len(units), (min(rows, replicates - start), len(units)))
        yield (sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)).tolist()
