"""Percentiles, and figures against their bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Summary = dict[str, float | int]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and what it may be at most."""

    name: str
    figure: float
    most: float
    unit: str = ""
    timing: bool = True
    """Whether the figure depends on how fast the machine is."""

    @property
    def passed(self) -> bool:
        """Whether it is met."""
        return self.figure <= self.most

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {self.figure:.4g} {self.unit}".rstrip() + f" (at most {self.most:g})"


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values, in order, do not exceed; NaN for none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(seconds: Iterable[float]) -> Summary:
    """Number and percentiles, in milliseconds."""
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {"count": len(ordered), **{f"{name}_ms": _ms(percentile(ordered, s)) for name, s in shares.items()}}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
