"""Paired tests and power, against tables, textbook examples and (where it is installed) SciPy."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.engine.stats import binary_pairs, intervals, paired, power

# Student's own data of 1908: additional hours of sleep of ten patients after two drugs.
SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_students_sleep_data() -> None:
    result = paired.paired_t(*SLEEP)
    assert result is not None
    assert result.difference == pytest.approx(-1.58)
    assert result.statistic == pytest.approx(-4.0621, abs=1e-4)
    assert result.p_value == pytest.approx(0.002833, abs=1e-6)
    assert (result.interval.lower, result.interval.upper) == (
        pytest.approx(-2.4598858, abs=1e-6),
        pytest.approx(-0.7001142, abs=1e-6),
    )
    assert (result.degrees, result.pairs) == (9, 10)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=40))
def test_the_paired_t_test_equals_scipys(pairs: list[tuple[float, float]]) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    result = paired.paired_t(first, second)
    assert result is not None
    if result.standard_error < 1e-9:
        return
    expected = scipy_stats.ttest_rel(first, second)
    assert result.statistic == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-9)


def test_equal_and_equally_different_runs() -> None:
    same = paired.paired_t([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert same is not None
    assert (same.difference, same.p_value, same.statistic) == (0.0, 1.0, 0.0)
    shifted = paired.paired_t([1.0, 2.0], [0.0, 1.0])
    assert shifted is not None
    assert (shifted.p_value, shifted.statistic) == (0.0, math.inf)


def test_documents_of_one_cluster_count_once() -> None:
    generator = random.Random(2)
    per_cluster = [generator.gauss(0.1, 1) for _ in range(12)]
    first = [value for value in per_cluster for _ in range(5)]
    clusters = [number for number in range(12) for _ in range(5)]
    clustered = paired.paired_t(first, [0.0] * 60, clusters=clusters)
    once = paired.paired_t(per_cluster, [0.0] * 12)
    naive = paired.paired_t(first, [0.0] * 60)
    assert clustered is not None
    assert once is not None
    assert naive is not None
    assert clustered.p_value == pytest.approx(once.p_value)
    assert clustered.degrees == 11
    assert naive.p_value < clustered.p_value


def test_too_few_documents_are_no_evidence() -> None:
    assert paired.paired_t([1.0], [0.0]) is None
    assert paired.paired_t([1.0, 1.0], [0.0, 0.0], clusters=["a", "a"]) is None
    assert paired.permutation_test([1.0], [0.0]) is None
    assert binary_pairs.mcnemar(0, 0) is None
    assert binary_pairs.sign_test(0, 0) is None


def test_runs_of_other_lengths_and_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="have 2 and 1"):
        paired.paired_t([1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="must not be negative"):
        binary_pairs.mcnemar(-1, 2)
    with pytest.raises(ValueError, match="must not be negative"):
        binary_pairs.sign_test(1, -2)
    with pytest.raises(ValueError, match="permutations must be positive"):
        paired.permutation_test([1.0, 0.0], [1.0, 1.0], permutations=0)


@pytest.mark.parametrize(
    ("wins", "losses", "exact", "mid_p"),
    [
        # Bentur et al. 2009 as analysed by Fagerland et al. 2013, table 2: 1 and 7 discordant pairs.
        (1, 7, 0.0703, 0.0391),
        (7, 1, 0.0703, 0.0391),
        (0, 5, 0.0625, 0.03125),
        (4, 4, 1.0, 1.0),
    ],
)
def test_mcnemars_test_of_few_pairs(wins: int, losses: int, exact: float, mid_p: float) -> None:
    conservative = binary_pairs.mcnemar(wins, losses, mid_p=False)
    usual = binary_pairs.mcnemar(wins, losses)
    assert conservative is not None
    assert usual is not None
    assert (conservative.method, usual.method) == ("mcnemar_exact", "mcnemar_mid_p")
    assert conservative.p_value == pytest.approx(exact, abs=5e-5)
    assert usual.p_value == pytest.approx(mid_p, abs=5e-5)


def test_mcnemars_test_of_many_pairs() -> None:
    # 3.8414588 is the 95 % quantile of chi-squared with one degree of freedom.
    assert binary_pairs.chi_squared_tail(3.841458820694124) == pytest.approx(0.05)
    result = binary_pairs.mcnemar(700, 600)
    assert result is not None
    assert result.method == "mcnemar_chi2"
    assert result.statistic == pytest.approx(100**2 / 1300)
    exact = binary_pairs.sign_test(700, 600)
    assert exact is not None
    assert result.p_value == pytest.approx(exact.p_value, rel=0.1)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_equals_scipys(wins: int, losses: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    result = binary_pairs.sign_test(wins, losses)
    if wins + losses == 0:
        assert result is None
        return
    assert result is not None
    assert result.p_value == pytest.approx(scipy_stats.binomtest(wins, wins + losses).pvalue, rel=1e-9)


def test_every_exchange_of_few_documents_is_tried() -> None:
    result = paired.permutation_test([3.0, 2.0, 1.0, 5.0], [0.0, 0.0, 0.0, 5.0])
    assert result is not None
    assert (result.p_value, result.permutations, result.exhaustive) == (2 / 8, 8, True)
    tie = paired.permutation_test([1.0, 0.0], [1.0, 0.0])
    assert tie is not None
    assert tie.p_value == 1.0


def test_drawn_exchanges_repeat_with_their_seed_and_agree_with_the_t_test() -> None:
    generator = random.Random(11)
    first = [generator.gauss(0.3, 1) for _ in range(60)]
    second = [generator.gauss(0.0, 1) for _ in range(60)]
    result = paired.permutation_test(first, second, permutations=4000, seed=5)
    student = paired.paired_t(first, second)
    assert result is not None
    assert student is not None
    assert not result.exhaustive
    assert result.p_value == pytest.approx(student.p_value, abs=0.03)
    assert paired.permutation_test(first, second, permutations=4000, seed=5) == result


def test_no_exchange_ever_gives_a_p_value_of_zero() -> None:
    result = paired.permutation_test([1.0] * 40, [0.0] * 40, permutations=100)
    assert result is not None
    assert result.p_value == pytest.approx(1 / 101)


def test_holms_correction() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([]) == []
    assert paired.holm([0.7, 0.9]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired.holm([math.nan])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_values_never_fall_below_the_given_and_keep_their_order(values: Sequence[float]) -> None:
    adjusted = paired.holm(values)
    assert all(a >= p for a, p in zip(adjusted, values, strict=True))
    assert max(adjusted) <= 1
    by_given = [a for _, a in sorted(zip(values, adjusted, strict=True))]
    assert by_given == sorted(by_given)


def test_required_documents_and_what_they_show() -> None:
    # The usual z values: (1.959964 + 0.841621)² * 0.25 / 0.03² = 2180.2
    assert power.required_documents(0.03) == 2181
    assert power.achieved_power(0.03, 2181) == pytest.approx(0.8, abs=1e-3)
    assert power.minimum_detectable_effect(2181) == pytest.approx(0.03, abs=1e-5)
    uncorrelated = power.Design(correlation=0.0)
    assert power.required_documents(0.03, uncorrelated) == 4361


def test_power_equals_the_normal_approximation_by_simulation() -> None:
    generator = random.Random(3)
    design, found = power.Design(1.0, 1.0, 0.0), 0
    for _ in range(1500):
        differences = [generator.gauss(0.5, math.sqrt(2)) for _ in range(60)]
        error = intervals.mean_standard_error(differences)
        assert error is not None
        found += abs(sum(differences) / 60 / error) > 1.959964
    assert found / 1500 == pytest.approx(power.achieved_power(0.5, 60, design), abs=0.04)


def test_power_of_nothing_is_unknown_and_nonsense_is_refused() -> None:
    constant = power.Design(0.0, 0.0)
    assert power.required_documents(0.1, constant) is None
    assert power.achieved_power(0.1, 100, constant) is None
    assert power.minimum_detectable_effect(100, constant) is None
    assert power.achieved_power(0.1, 1) is None
    assert power.minimum_detectable_effect(1) is None
    for effect in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="effect must be a positive number"):
            power.required_documents(effect)
    for field, value in (("alpha", 0.0), ("power", 1.0), ("correlation", 2.0), ("deviation_first", -1.0)):
        with pytest.raises(ValueError, match=field):
            power.Design(**{field: value})
