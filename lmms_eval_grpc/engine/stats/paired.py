"""Two runs over the same documents, compared document by document."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.stats import student_t
from lmms_eval_grpc.engine.stats.intervals import (
    CONFIDENCE,
    Interval,
    clustered_standard_error,
    clustered_t_interval,
    mean_standard_error,
    t_interval,
)

PERMUTATIONS = 10_000
_EXHAUSTIVE_LIMIT = 12
"""Up to so many differing documents every one of the 2**n sign patterns is tried."""
_FEW_SIZES = 16
"""Documents per size of difference from which on the sizes are drawn together."""
_CHUNK = 1 << 18
"""Signs that are drawn at once."""


@dataclass(frozen=True, slots=True)
class PairedT:
    """The mean difference, first run minus second, and its t test; two-sided."""

    difference: float
    standard_error: float
    interval: Interval
    statistic: float
    """t; infinite where every document differs by the same amount."""
    degrees: int
    p_value: float
    pairs: int


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """How often a random exchange of the two runs' scores makes as large a difference; two-sided."""

    difference: float
    p_value: float
    permutations: int
    exhaustive: bool
    """Whether every exchange was tried, so that the p-value is exact."""


def paired_t(
    first: Sequence[float],
    second: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> PairedT | None:
    """Student's paired t test: Student 1908, https://doi.org/10.1093/biomet/6.1.1; for evaluations Miller 2024,
    https://arxiv.org/abs/2411.00640, section 4.

    With ``clusters`` (an id for each document) the clustered standard error and clusters - 1 degrees of freedom.
    None for fewer than two documents or clusters. Raises ValueError when the runs are not equally long.
    """
    differences = _differences(first, second)
    if clusters is None:
        error, interval = mean_standard_error(differences), t_interval(differences, confidence)
        degrees = len(differences) - 1
    else:
        error = clustered_standard_error(differences, clusters)
        interval = clustered_t_interval(differences, clusters, confidence)
        degrees = len(set(clusters)) - 1
    if error is None or interval is None:
        return None
    difference = math.fsum(differences) / len(differences)
    if error == 0:
        statistic = 0.0 if difference == 0 else math.copysign(math.inf, difference)
        p_value = 1.0 if difference == 0 else 0.0
    else:
        statistic = difference / error
        p_value = 2 * student_t.cumulative(-abs(statistic), degrees)
    return PairedT(difference, error, interval, statistic, degrees, p_value, len(differences))


def permutation_test(
    first: Sequence[float], second: Sequence[float], *, permutations: int = PERMUTATIONS, seed: int = 1234
) -> PermutationTest | None:
    """Fisher's randomisation test on the mean difference: Fisher 1935, "The Design of Experiments", section 21.

    The two scores of each document are exchanged or not, at random. For few differing documents all patterns are
    tried; else ``permutations`` are drawn with ``seed``, and the observed one counts as one of them: Phipson and Smyth
    2010, https://doi.org/10.2202/1544-6115.1585. The same seed gives the same p-value.

    None for fewer than two documents. Raises ValueError when the runs are not equally long or ``permutations`` is not
    positive.
    """
    if permutations < 1:
        raise ValueError(f"permutations must be positive, but are {permutations}")
    differences = _differences(first, second)
    if len(differences) < 2:
        return None
    sizes = [abs(difference) for difference in differences if difference]
    observed = abs(math.fsum(differences))
    # Sums that differ only by rounding count as equal, else the observed pattern might not reach itself.
    threshold = observed - 1e-12 * max(1.0, math.fsum(sizes))
    mean = math.fsum(differences) / len(differences)
    if len(sizes) <= _EXHAUSTIVE_LIMIT:
        sums = [0.0]
        for size in sizes:
            sums = [total + signed for total in sums for signed in (size, -size)]
        reached = sum(abs(total) >= threshold for total in sums)
        return PermutationTest(mean, reached / len(sums), len(sums), exhaustive=True)
    reached = sum(int((abs(sums) >= threshold).sum()) for sums in _signed_sums(sizes, permutations, seed))
    return PermutationTest(mean, (reached + 1) / (permutations + 1), permutations, exhaustive=False)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several, in the order given: Holm 1979, https://www.jstor.org/stable/4615733.

    Rejecting every hypothesis whose adjusted value is below alpha errs anywhere with probability alpha at most. Raises
    ValueError for a p-value outside [0, 1].
    """
    for value in p_values:
        if not 0 <= value <= 1:
            raise ValueError(f"a p-value must be between 0 and 1, but one is {value}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    if len(first) != len(second):
        raise ValueError(f"the runs must have a score for each document, but have {len(first)} and {len(second)}")
    return [a - b for a, b in zip(first, second, strict=True)]


def _signed_sums(sizes: Sequence[float], permutations: int, seed: int) -> Iterator[Any]:
    """Sums of ``sizes`` with random signs, ``permutations`` of them in arrays that fit the processor's cache."""
    import numpy  # late: this module is light to import

    generator = numpy.random.default_rng(seed)
    distinct, counts = numpy.unique(numpy.asarray(sizes), return_counts=True)
    few = len(distinct) * _FEW_SIZES <= len(sizes)
    values = distinct if few else numpy.asarray(sizes)
    rows = max(1, _CHUNK // len(values))
    for start in range(0, permutations, rows):
        count = min(rows, permutations - start)
        if few:  # scores of few kinds, as right and wrong are: how many of a size are positive is binomial
            signs = 2.0 * generator.binomial(counts, 0.5, (count, len(values))) - counts
        else:
            drawn = numpy.frombuffer(generator.bytes(count * ((len(values) + 7) // 8)), dtype=numpy.uint8)
            bits = numpy.unpackbits(drawn.reshape(count, -1), axis=1, count=len(values))
            signs = 2.0 * bits - 1.0
        yield signs @ values
