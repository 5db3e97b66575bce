"""Student's t distribution without SciPy: the distribution function and its inverse, to a relative 1e-12."""

from __future__ import annotations

import functools
import math

_STEP = 1 / 20
_NODES = tuple(
    (math.exp(math.pi / 2 * math.sinh(u)), _STEP * math.pi / 2 * math.cosh(u))
    for u in (_STEP * number for number in range(-80, 81))
)
"""Points s and weights ds / s of the exp-sinh rule for integrals from nought to infinity (Takahasi and Mori 1974,
https://doi.org/10.2977/prims/1195192451), over all scales that doubles can tell apart."""
_MAX_STEPS = 200


def cumulative(value: float, degrees: float) -> float:
    """The probability that Student's t with ``degrees`` degrees of freedom is at most ``value``.

    Small tails keep their relative accuracy, as long as there is at least one degree of freedom. Raises ValueError for
    ``degrees`` that are not positive.
    """
    tail = _tail(abs(value), degrees)
    return tail if value < 0 else 1 - tail


@functools.lru_cache(maxsize=4096)
def quantile(probability: float, degrees: float) -> float:
    """The value below which Student's t with ``degrees`` degrees of freedom lies with ``probability``.

    Raises ValueError outside 0 < probability < 1 or for ``degrees`` that are not positive.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, but is {probability}")
    wanted = min(probability, 1 - probability)
    value = 0.0
    # Newton's steps on the logarithm of the tail, which is nearly straight: they never leave the positive side.
    for _ in range(_MAX_STEPS):
        tail = _tail(value, degrees)
        step = math.log(tail / wanted) * tail / _density(value, degrees)
        value = max(0.0, value + step)
        if abs(step) <= 1e-15 * value:
            break
    return math.copysign(value, probability - 0.5) if value else 0.0


def _tail(value: float, degrees: float) -> float:
    """The probability of more than ``value``, which is not negative.

    The density times the integral of how it falls from there on: nothing is subtracted, so nothing cancels out.
    """
    density = _density(value, degrees)
    if density == 0:
        return 0.0
    power, scale = (degrees + 1) / 2, degrees + value * value
    length = scale / (degrees + 1) / max(value, 1.0)  # about how far it is until the density has fallen by half
    falls = (
        math.exp(-power * math.log1p(length * s * (2 * value + length * s) / scale)) * s * weight
        for s, weight in _NODES
    )
    return density * length * math.fsum(falls)


def _density(value: float, degrees: float) -> float:
    if not degrees > 0:
        raise ValueError(f"degrees of freedom must be positive, but are {degrees}")
    falling = math.exp(-(degrees + 1) / 2 * math.log1p(value * value / degrees))
    return _gamma_ratio(degrees / 2) / math.sqrt(degrees * math.pi) * falling


def _gamma_ratio(a: float) -> float:
    """Γ(a + 1/2) / Γ(a); for large ``a`` by Stirling's series (DLMF 5.11.8), where both would overflow."""
    if a < 20:
        return math.gamma(a + 0.5) / math.gamma(a)
    series = -1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7) - 31 / (18432 * a**9)
    return math.sqrt(a) * math.exp(series)
