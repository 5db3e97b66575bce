"""Standard errors and 95 % intervals of means, of independent and of clustered observations."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from lmms_eval_grpc.engine.stats import student_t

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of the observations."""

    lower: float
    upper: float


def mean_standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean of independent ``values``: sample standard deviation (n - 1) over root n.

    None for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Student's t interval of the mean of independent ``values``, with n - 1 degrees of freedom.

    Not cut at the ends of a metric's range: near 0 or 1 and for few samples a bound may lie outside, which says that
    the sample is too small for this interval, and cutting would hide it. Where all values are equal it has no width,
    for the same reason. None for fewer than two values.
    """
    error = mean_standard_error(values)
    if error is None:
        return None
    return _around(math.fsum(values) / len(values), error, len(values) - 1, confidence)


def clustered_standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """The standard error of the mean of ``values`` that belong together in ``clusters`` (an id for each value).

    The cluster-robust variance with its finite-sample factor G / (G - 1): Miller 2024, "Adding Error Bars to Evals",
    https://arxiv.org/abs/2411.00640; the factor as in Cameron and Miller 2015,
    https://doi.org/10.3368/jhr.50.2.317. Equal to :func:`mean_standard_error` where every cluster has one value.

    None for fewer than two clusters.
    """
    mean = math.fsum(values) / len(values) if values else 0.0
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    groups = len(sums)
    if groups < 2:
        return None
    return math.sqrt(groups / (groups - 1) * math.fsum(total * total for total in sums.values())) / len(values)


def clustered_standard_error_of_lmms_eval(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """What lmms-eval reports under ``_stderr_clustered``: equation 4 of Miller 2024, https://arxiv.org/abs/2411.00640.

    sqrt(s²/n + Σ over pairs of different values in one cluster of d·d' / n²), with no factor for a finite number of
    clusters, so it is too small where there are few; :func:`clustered_standard_error` has that factor. None for fewer
    than two values or clusters, or when the sum under the root is negative.
    """
    count = len(values)
    error = mean_standard_error(values)
    if error is None or len(set(clusters)) < 2:
        return None
    mean = math.fsum(values) / count
    sums: dict[Hashable, float] = {}
    squares = 0.0
    for value, cluster in zip(values, clusters, strict=True):
        deviation = value - mean
        sums[cluster] = sums.get(cluster, 0.0) + deviation
        squares += deviation * deviation
    between = (math.fsum(total * total for total in sums.values()) - squares) / (count * count)
    variance = error * error + between
    return math.sqrt(variance) if variance >= 0 else None


def clustered_t_interval(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Interval | None:
    """Like :func:`t_interval`, with the clustered standard error and clusters - 1 degrees of freedom."""
    error = clustered_standard_error(values, clusters)
    if error is None:
        return None
    return _around(math.fsum(values) / len(values), error, len(set(clusters)) - 1, confidence)


def _around(mean: float, error: float, degrees: int, confidence: float) -> Interval:
    reach = student_t.quantile((1 + confidence) / 2, degrees) * error
    return Interval(mean - reach, mean + reach)
