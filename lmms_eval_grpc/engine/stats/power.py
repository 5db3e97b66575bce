"""How many documents show a difference, and which difference so many documents show.

For the paired comparison of two runs over the same documents, in the normal approximation of Miller 2024, "Adding Error
Bars to Evals", https://arxiv.org/abs/2411.00640, section 5. A standard deviation is of one run's scores over documents;
:data:`DEFAULT_DEVIATION` is the largest that right-or-wrong scores can have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

DEFAULT_DEVIATION = 0.5
DEFAULT_CORRELATION = 0.5
DEFAULT_ALPHA = 0.05
DEFAULT_POWER = 0.8

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Design:
    """A comparison: how scores vary, and which errors are tolerated."""

    deviation_first: float = DEFAULT_DEVIATION
    deviation_second: float = DEFAULT_DEVIATION
    correlation: float = DEFAULT_CORRELATION
    """Of the two runs' scores over documents."""
    alpha: float = DEFAULT_ALPHA
    """Chance of seeing a difference where there is none; two-sided."""
    power: float = DEFAULT_POWER
    """Chance of seeing one that is there."""

    def __post_init__(self) -> None:
        for name in ("deviation_first", "deviation_second"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number that is not negative, but is {value}")
        if not -1 <= self.correlation <= 1:
            raise ValueError(f"correlation must be between -1 and 1, but is {self.correlation}")
        for name in ("alpha", "power"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, but is {value}")

    @property
    def deviation_of_differences(self) -> float:
        """sqrt(σa² + σb² - 2ρσaσb)."""
        a, b = self.deviation_first, self.deviation_second
        return math.sqrt(max(0.0, a * a + b * b - 2 * self.correlation * a * b))


def required_documents(effect: float, design: Design | None = None) -> int | None:
    """The fewest documents on which a true mean difference of ``effect`` is found with the design's power.

    ceil(((z_{1-alpha/2} + z_{power}) σ_d / effect)²), at least 1. None where the differences do not vary, for then the
    formula says nothing. Raises ValueError unless ``effect`` is positive.
    """
    design = design or Design()
    if not (math.isfinite(effect) and effect > 0):
        raise ValueError(f"effect must be a positive number, but is {effect}")
    deviation = design.deviation_of_differences
    if deviation == 0:
        return None
    return max(1, math.ceil((_reach(design) * deviation / effect) ** 2))


def achieved_power(effect: float, documents: int, design: Design | None = None) -> float | None:
    """The chance of finding a true mean difference of ``effect`` on so many ``documents``.

    Φ(effect / σ_d · √n - z_{1-alpha/2}). None for fewer than two documents or where the differences do not vary.
    """
    design = design or Design()
    deviation = design.deviation_of_differences
    if documents < 2 or deviation == 0:
        return None
    return _NORMAL.cdf(abs(effect) / deviation * math.sqrt(documents) - _NORMAL.inv_cdf(1 - design.alpha / 2))


def minimum_detectable_effect(documents: int, design: Design | None = None) -> float | None:
    """The smallest true mean difference that so many ``documents`` show with the design's power.

    (z_{1-alpha/2} + z_{power}) σ_d / √n. None for fewer than two documents or where the differences do not vary: that
    formula then says 0, as if any difference were found.
    """
    design = design or Design()
    deviation = design.deviation_of_differences
    if documents < 2 or deviation == 0:
        return None
    return _reach(design) * deviation / math.sqrt(documents)


@dataclass(frozen=True, slots=True)
class PowerPlan:
    """What a comparison can show, for a table."""

    effect: float
    design: Design
    required_documents: int | None
    documents: int | None
    """How many there are, if that was said."""
    achieved_power: float | None
    """With ``documents``."""
    minimum_detectable_effect: float | None
    """With ``documents``."""


def plan(effect: float, design: Design | None = None, documents: int | None = None) -> PowerPlan:
    """The three figures of this module together. Raises ValueError unless ``effect`` is positive."""
    design = design or Design()
    return PowerPlan(
        effect=effect,
        design=design,
        required_documents=required_documents(effect, design),
        documents=documents,
        achieved_power=None if documents is None else achieved_power(effect, documents, design),
        minimum_detectable_effect=None if documents is None else minimum_detectable_effect(documents, design),
    )


def _reach(design: Design) -> float:
    return _NORMAL.inv_cdf(1 - design.alpha / 2) + _NORMAL.inv_cdf(design.power)
