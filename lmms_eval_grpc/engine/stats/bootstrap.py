"""The bootstrap, for aggregations about which nothing is known but their value."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lmms_eval_grpc.engine.stats.intervals import CONFIDENCE, Interval

T = TypeVar("T")

TRIALS = 10
"""Replicates in which an aggregation must equal the mean before it is taken for it."""
_INDEX = "int32"
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
) -> BootstrapEstimate | None:
    """The percentile interval of ``aggregate`` itself over ``items`` drawn with replacement.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. With ``clusters`` (an id for each item)
    whole clusters are drawn. The same seed gives the same numbers.

    None for fewer than two items or clusters, and when a replicate is not finite, for then the interval means nothing.
    """
    units = _units(len(items), clusters)
    if len(units) < 2 or replicates < 2:
        return None
    values = []
    for drawn in _draws(units, replicates, seed):
        value = float(aggregate([items[position] for position in drawn]))
        if not math.isfinite(value):
            return None
        values.append(value)
    return _estimate(values, confidence)


def mean_bootstrap(
    items: Sequence[T],
    aggregate: Callable[[list[T]], float],
    numbers: Sequence[float],
    *,
    replicates: int = 1000,
    seed: int = 1234,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> BootstrapEstimate | None:
    """What :func:`percentile_bootstrap` finds, in a fraction of its time, where ``aggregate`` is a mean.

    ``numbers``, one per item, are what it is thought to be the mean of. It is asked :data:`TRIALS` times whether it is;
    None where it is not, or where there is too little data.
    """
    import numpy  # late: this module is light to import

    units = _units(len(items), clusters)
    if len(units) < 2 or replicates < 2:
        return None
    array = numpy.asarray(numbers, dtype=float)
    for drawn in _draws(units, min(TRIALS, replicates), seed):
        mean = float(array.take(drawn).mean())
        if not math.isclose(
            float(aggregate([items[position] for position in drawn])), mean, rel_tol=1e-9, abs_tol=1e-12
        ):
            return None
    sums = numpy.array([math.fsum(numbers[position] for position in unit) for unit in units])
    sizes = numpy.array([len(unit) for unit in units])
    generator = numpy.random.default_rng(seed)
    rows = max(1, _CHUNK // len(units))
    values: list[float] = []
    for start in range(0, replicates, rows):
        chosen = generator.integers(0, len(units), (min(rows, replicates - start), len(units)), dtype=_INDEX)
        count = len(items) if clusters is None else sizes.take(chosen).sum(axis=1)
        values.extend((sums.take(chosen).sum(axis=1) / count).tolist())
    return _estimate(values, confidence) if all(map(math.isfinite, values)) else None


def _draws(units: Sequence[Sequence[int]], replicates: int, seed: int) -> Iterator[list[int]]:
    """Positions of items, ``replicates`` times as many units as there are."""
    import numpy

    generator = numpy.random.default_rng(seed)
    for _ in range(replicates):
        chosen = generator.integers(0, len(units), len(units), dtype=_INDEX).tolist()
        yield [position for unit in chosen for position in units[unit]]


def _estimate(values: Sequence[float], confidence: float) -> BootstrapEstimate:
    import numpy

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
