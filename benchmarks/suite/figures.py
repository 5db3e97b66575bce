"""What a case measures: series of repeated values, ratios of two of them, and the targets that these are held to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS, THEIRS, LOOP = "lmms-eval-grpc", "lmms-eval", "hand-written loop"


@dataclass
class Series:
    """One quantity of one system, measured several times."""

    system: str
    quantity: str
    unit: str = "s"
    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of all processes of the system, beside the values. Empty: not measured."""
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def summary(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "system": self.system,
            "quantity": self.quantity,
            "unit": self.unit,
            "median": self.median,
            "least": min(self.values),
            "most": max(self.values),
            "values": self.values,
        }
        if self.cpu:
            told |= {"cpu_median": statistics.median(self.cpu), "cpu": self.cpu}
        if self.note:
            told["note"] = self.note
        return told


@dataclass
class Comparison:
    """A figure that a target may be set for: usually a ratio of two series of the same rounds."""

    title: str
    value: float
    spread: tuple[float, float] | None = None
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None
    headline: str = ""
    """What the project's README calls it; empty: it is not shown there unless we lose."""
    why: str = ""
    """Where this was missed or lost: what stands behind it."""
    ours: Series | None = None
    other: Series | None = None
    """The series behind it: ours, and that of lmms-eval or of the loop. Less is better in all of them."""

    @property
    def target(self) -> str:
        """The target in words; empty where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met. None: there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None

    @property
    def lost(self) -> bool:
        """Whether its target is missed, or lmms-eval is better in it."""
        beside = self.ours is not None and self.other is not None and self.other.system == THEIRS
        return self.met is False or (beside and self.ours.median > self.other.median)  # type: ignore[union-attr]

    def summary(self) -> dict[str, Any]:
        told: dict[str, Any] = {"title": self.title, "value": self.value, "unit": self.unit}
        if self.spread:
            told["least"], told["most"] = self.spread
        if self.target:
            told |= {"target": self.target, "met": self.met}
        for name, series in (("ours", self.ours), ("other", self.other)):
            if series is not None:
                told[name] = {"system": series.system, "median": series.median, "unit": series.unit}
                told[name]["times"] = len(series.values)
        told["lost"] = self.lost
        told |= {name: text for name, text in (("headline", self.headline), ("why", self.why)) if text}
        return told


@dataclass
class CaseResult:
    """What one case found."""

    name: str
    title: str
    what: str
    """What is compared with what, in full sentences."""
    series: list[Series] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load_average: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seconds: float = 0.0
    quick: bool = False

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "what": self.what,
            "quick": self.quick,
            "seconds": self.seconds,
            "load_average": self.load_average,
            "comparisons": [comparison.summary() for comparison in self.comparisons],
            "series": [series.summary() for series in self.series],
            "notes": self.notes,
        }


def ratio(title: str, above: Series, below: Series, **more: Any) -> Comparison:
    """How many times as long ``above`` takes: the ratio of the medians, with the extremes of the rounds' own ratios.
    ``more``: other fields of the comparison."""
    series = (above, below)
    more["ours"] = next((one for one in series if one.system == OURS), None)
    more["other"] = next((one for one in series if one.system != OURS), None)
    return Comparison(title, above.median / below.median, _spread(above.values, below.values), **more)


def figure(title: str, series: Series, **more: Any) -> Comparison:
    """The median of one of our series, for a target."""
    spread = (min(series.values), max(series.values))
    return Comparison(title, series.median, spread, series.unit, ours=series, **more)


def _spread(above: Sequence[float], below: Sequence[float]) -> tuple[float, float] | None:
    if len(above) != len(below):
        return None
    each = [high / low for high, low in zip(above, below, strict=True)]
    return min(each), max(each)


def interleave(rounds: int, runs: Sequence[tuple[Series, Callable[[], tuple[float, float | None]]]]) -> None:
    """Runs all in turn, ``rounds`` times, so that what the machine does beside hits all alike. Each returns the value
    and the CPU seconds; the order turns round from one round to the next."""
    for number in range(rounds):
        for series, run in runs if number % 2 == 0 else list(reversed(runs)):
            value, cpu = run()
            series.values.append(value)
            if cpu is not None:
                series.cpu.append(cpu)
            print(f"  {series.system}: {series.quantity}: {value:.4g} {series.unit}", flush=True)
