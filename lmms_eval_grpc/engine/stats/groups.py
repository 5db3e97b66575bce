"""The value and the standard error of a group of tasks, from those of its tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence


def group_weights(sizes: Sequence[int], weight_by_size: bool) -> list[float]:
    """Each task's share of the group's value: equal shares, or in proportion to ``sizes``; they sum to 1.

    Raises ValueError for no tasks, or when sizes are to be used and they are not positive in sum.
    """
    if not sizes:
        raise ValueError("a group needs at least one task")
    total = sum(sizes)
    if not weight_by_size:
        return [1 / len(sizes)] * len(sizes)
    if total <= 0:
        raise ValueError(f"a group weighted by size needs samples, but its tasks have {list(sizes)}")
    return [size / total for size in sizes]


def group_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Σ w·x. Raises ValueError when the two are not equally many."""
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))


def group_standard_error(errors: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """sqrt(Σ w²·se²): the standard error of Σ w·x for independent tasks, for any weights.

    The variance of a linear combination of independent variables. None as soon as one task has no standard error, for
    then the group's is not known either. Raises ValueError when ``errors`` and ``weights`` are not equally many.
    """
    terms = [None if error is None else (weight * error) ** 2 for error, weight in zip(errors, weights, strict=True)]
    known = [term for term in terms if term is not None]
    return math.sqrt(math.fsum(known)) if known and len(known) == len(terms) else None


def pooled_standard_error(errors: Sequence[float | None], sizes: Sequence[int]) -> float | None:
    """lmms-eval's own figure, for tables that are to equal its: the pooled variance over the sum of ``sizes``.

    It is the standard error of the mean of all samples together if every task has the same mean, and of nothing else;
    see :func:`group_standard_error`. None when an error is missing or no task has two samples.
    """
    terms = [None if error is None else (size - 1) * error**2 * size for error, size in zip(errors, sizes, strict=True)]
    known = [term for term in terms if term is not None]
    total = sum(sizes)
    if not known or len(known) != len(terms) or total <= len(sizes):
        return None
    return math.sqrt(math.fsum(known) / (total - len(sizes)) / total)
