"""Tests of two runs whose scores are right or wrong, document by document.

Only the documents on which the runs differ say anything: ``wins`` (first right, second wrong) and ``losses``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EXACT_LIMIT = 1000
"""Up to so many differing documents the binomial is summed in whole numbers, which beyond become too long.

McNemar's test then takes chi-squared, which is as good; the sign test sums in floats."""


@dataclass(frozen=True, slots=True)
class PairsTest:
    """Outcome of a test that wins and losses are equally likely; two-sided."""

    method: str
    """``mcnemar_exact``, ``mcnemar_mid_p``, ``mcnemar_chi2`` or ``sign``."""
    wins: int
    losses: int
    p_value: float
    statistic: float | None = None
    """Chi-squared with one degree of freedom; None for the exact tests."""


def mcnemar(wins: int, losses: int, *, mid_p: bool = True) -> PairsTest | None:
    """McNemar's test: the mid-p version up to :data:`EXACT_LIMIT` differing documents, chi-squared beyond.

    McNemar 1947, https://doi.org/10.1007/BF02295996. The mid-p version as recommended by Fagerland, Lydersen and
    Laake 2013, https://doi.org/10.1186/1471-2288-13-91: half as conservative as the exact one (``mid_p=False``), and
    close to its nominal level for small counts. Beyond the limit the statistic is (b - c)² / (b + c), without Edwards'
    correction, which makes the test too shy.

    None when the runs differ nowhere. Raises ValueError for negative counts.
    """
    _check(wins, losses)
    differing = wins + losses
    if not differing:
        return None
    if differing > EXACT_LIMIT:
        statistic = (wins - losses) ** 2 / differing
        return PairsTest("mcnemar_chi2", wins, losses, chi_squared_tail(statistic), statistic)
    smaller = min(wins, losses)
    if not mid_p:
        return PairsTest("mcnemar_exact", wins, losses, _two_sided_binomial(smaller, differing))
    # Twice the one-sided mid-p value, in which the observed count weighs half; 1 for as many wins as losses.
    doubled = 2 * _tail(smaller, differing) - math.comb(differing, smaller)
    return PairsTest("mcnemar_mid_p", wins, losses, _ratio(doubled, differing))


def sign_test(wins: int, losses: int) -> PairsTest | None:
    """The exact two-sided sign test, ties left out: Dixon and Mood 1946, https://doi.org/10.1080/01621459.1946.10501898.

    For scores of any kind: ``wins`` counts the documents on which the first run scored more. None when the runs tie on
    every document. Raises ValueError for negative counts.
    """
    _check(wins, losses)
    if not wins + losses:
        return None
    return PairsTest("sign", wins, losses, _two_sided_binomial(min(wins, losses), wins + losses))


def chi_squared_tail(statistic: float) -> float:
    """The chance that chi-squared with one degree of freedom exceeds ``statistic``; it is a squared normal variable."""
    return math.erfc(math.sqrt(statistic / 2))


def _two_sided_binomial(smaller: int, total: int) -> float:
    """Twice the lower tail of Binomial(total, 1/2) up to ``smaller``, at most 1."""
    if total <= EXACT_LIMIT:
        return min(1.0, _ratio(2 * _tail(smaller, total), total))
    term = _chance(smaller, total)
    terms = [term]
    # Downwards each term is smaller than the one before, so the sum can be left when they no longer count.
    for count in range(smaller, 0, -1):
        term *= count / (total - count + 1)
        if term < 1e-18 * terms[0]:
            break
        terms.append(term)
    return min(1.0, 2 * math.fsum(terms))


def _chance(count: int, total: int) -> float:
    """Binomial(total, 1/2) at ``count``, for large ``total``, without the cancellation of large logarithms.

    Loader 2000, "Fast and Accurate Computation of Binomial Probabilities".
    """
    if count == 0:
        return _ratio(1, total)
    other = total - count
    excess = (other - count) / total
    distance = total / 2 * ((1 - excess) * math.log1p(-excess) + (1 + excess) * math.log1p(excess))
    remainders = _stirling_remainder(total) - _stirling_remainder(count) - _stirling_remainder(other)
    return math.sqrt(total / (2 * math.pi * count * other)) * math.exp(remainders - distance)


def _stirling_remainder(n: int) -> float:
    """log n! minus Stirling's approximation of it."""
    if n < 20:
        return math.log(math.factorial(n)) - (n + 0.5) * math.log(n) + n - math.log(2 * math.pi) / 2
    return 1 / (12 * n) - 1 / (360 * n**3) + 1 / (1260 * n**5) - 1 / (1680 * n**7)


def _tail(smaller: int, total: int) -> int:
    """How many of the 2**total outcomes have at most ``smaller`` wins; a whole number, so exact."""
    return sum(math.comb(total, count) for count in range(smaller + 1))


def _ratio(numerator: int, exponent: int) -> float:
    """numerator / 2**exponent, where both may be far beyond the range of floats."""
    try:
        return numerator / (1 << exponent)
    except OverflowError:  # smaller than any float
        return 0.0


def _check(wins: int, losses: int) -> None:
    if wins < 0 or losses < 0:
        raise ValueError(f"counts must not be negative, but are {wins} and {losses}")
