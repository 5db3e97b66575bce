"""Statistics against SciPy, NumPy and closed forms, to 1e-12; and what they say where there is little to say."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy
import pytest
from scipy import stats

from lmms_eval_grpc.engine.stats import binary_pairs, bootstrap, intervals, paired, power, repeats, student_t

CLOSE = 1e-12


def close(value: float) -> object:
    return pytest.approx(value, rel=CLOSE, abs=1e-300)


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 10, 19, 39, 41, 100, 999, 5000, 10**5, 10**7, 10**9])
def test_students_t_for_any_degrees_of_freedom(degrees: int) -> None:
    for tail in (1e-6, 1e-3, 0.005, 0.025, 0.05, 0.25, 0.4):
        assert student_t.quantile(tail, degrees) == close(stats.t.ppf(tail, degrees))
        assert student_t.quantile(1 - tail, degrees) == close(stats.t.ppf(1 - tail, degrees))
    for value in (-30.0, -8.0, -2.0, -0.5, -1e-3):
        assert student_t.cumulative(value, degrees) == close(stats.t.cdf(value, degrees))
        assert student_t.cumulative(-value, degrees) == close(1 - stats.t.cdf(value, degrees))


def test_students_t_where_it_has_closed_forms() -> None:
    for value in (0.0, 1e-12, 1e-6, 0.3, 7.0, 1e6):
        assert student_t.cumulative(-value, 1) == close(math.atan2(1, value) / math.pi)  # Cauchy's
        root = math.sqrt(2 + value * value)
        assert student_t.cumulative(-value, 2) == close(1 / (root * (root + value)))


@pytest.mark.parametrize("count", [2, 3, 7, 50, 1000])
def test_means_errors_and_intervals(count: int) -> None:
    values = numpy.random.default_rng(count).normal(0.6, 0.3, count).tolist()
    error = stats.sem(values)
    assert intervals.mean_standard_error(values) == close(error)
    interval = intervals.t_interval(values)
    assert interval is not None
    lower, upper = stats.t.interval(0.95, count - 1, numpy.mean(values), error)
    assert (interval.lower, interval.upper) == (pytest.approx(lower, abs=CLOSE), pytest.approx(upper, abs=CLOSE))


def test_clustered_errors_are_those_of_a_regression_on_a_constant() -> None:
    generator = numpy.random.default_rng(3)
    clusters = generator.integers(0, 9, 120)
    values = generator.normal(0, 1, 120) + generator.normal(0, 1, 9)[clusters]
    # Liang and Zeger's sandwich with the design of ones: (X'X)^-1 (sum of X_g'u_g u_g'X_g) (X'X)^-1.
    design, residuals = numpy.ones((120, 1)), values - values.mean()
    bread = numpy.linalg.inv(design.T @ design)
    scores = [design[clusters == g].T @ residuals[clusters == g] for g in range(9)]
    meat = sum(numpy.outer(score, score) for score in scores)
    sandwich = float((bread @ meat @ bread)[0, 0])
    error = intervals.clustered_standard_error(values.tolist(), clusters.tolist())
    assert error == close(math.sqrt(9 / 8 * sandwich))
    interval = intervals.clustered_t_interval(values.tolist(), clusters.tolist())
    assert interval is not None
    assert interval.upper - values.mean() == pytest.approx(stats.t.ppf(0.975, 8) * error, abs=CLOSE)
    # lmms-eval's: s²/n and the products of different values of one cluster.
    products = sum(
        residuals[i] * residuals[j] for i in range(120) for j in range(120) if i != j and clusters[i] == clusters[j]
    )
    theirs = intervals.clustered_standard_error_of_lmms_eval(values.tolist(), clusters.tolist())
    assert theirs == pytest.approx(math.sqrt(values.var(ddof=1) / 120 + products / 120**2), rel=1e-11)


@pytest.mark.parametrize("count", [2, 5, 40, 3000])
def test_the_paired_t_test(count: int) -> None:
    generator = numpy.random.default_rng(count)
    first, second = generator.normal(0.1, 1, count), generator.normal(0, 1, count)
    result = paired.paired_t(first.tolist(), second.tolist())
    expected = stats.ttest_rel(first, second)
    assert result is not None
    assert result.statistic == pytest.approx(expected.statistic, rel=1e-11)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-11)
    interval = expected.confidence_interval(0.95)
    assert result.interval.lower == pytest.approx(interval.low, abs=CLOSE)
    assert result.interval.upper == pytest.approx(interval.high, abs=CLOSE)


@pytest.mark.parametrize(("wins", "losses"), [(0, 5), (7, 3), (500, 480), (501, 500), (700, 600), (5200, 5000),
                                              (0, 1500), (3, 2000), (200_000, 199_000), (10**6, 10**6)])  # fmt: skip
def test_the_sign_test_and_mcnemars_for_few_and_for_many_documents(wins: int, losses: int) -> None:
    sign = binary_pairs.sign_test(wins, losses)
    assert sign is not None
    # SciPy's own tail is good to some 1e-11 for a million.
    assert sign.p_value == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, rel=1e-10, abs=1e-300)
    mcnemar = binary_pairs.mcnemar(wins, losses)
    assert mcnemar is not None
    if mcnemar.method == "mcnemar_mid_p":
        smaller, total = min(wins, losses), wins + losses
        tail = stats.binom.cdf(smaller, total, 0.5) - stats.binom.pmf(smaller, total, 0.5) / 2
        assert mcnemar.p_value == pytest.approx(2 * tail, rel=1e-11)
    else:
        assert mcnemar.p_value == pytest.approx(stats.chi2.sf((wins - losses) ** 2 / (wins + losses), 1), rel=1e-11)


def test_the_sign_test_does_not_jump_where_its_method_changes() -> None:
    for wins in (400, 450, 499):
        losses = binary_pairs.EXACT_LIMIT + 1 - wins
        exact = 2 * sum(math.comb(wins + losses, k) for k in range(wins + 1)) / (1 << (wins + losses))
        sign = binary_pairs.sign_test(wins, losses)
        assert sign is not None
        assert sign.p_value == close(exact)


def test_every_permutation_of_few_documents() -> None:
    first, second = [0.9, 0.4, 0.7, 0.8, 0.3], [0.5, 0.5, 0.1, 0.2, 0.35]
    expected = stats.permutation_test(
        (first, second), lambda x, y, axis: numpy.mean(x - y, axis=axis), permutation_type="samples",
        n_resamples=numpy.inf, vectorized=True,
    )  # fmt: skip
    result = paired.permutation_test(first, second)
    assert result is not None
    assert result.exhaustive
    assert result.p_value == pytest.approx(expected.pvalue, abs=CLOSE)


@pytest.mark.parametrize("kinds", ["binary", "graded"])
def test_drawn_permutations_agree_with_the_exact_distribution(kinds: str) -> None:
    generator = random.Random(4)
    if kinds == "binary":
        first, second = [1.0] * 60 + [0.0] * 40, [0.0] * 100
        first[55:75], second[55:75] = [0.0] * 20, [1.0] * 20
        wins = sum(a > b for a, b in zip(first, second, strict=True))
        losses = sum(a < b for a, b in zip(first, second, strict=True))
        exact = stats.binomtest(wins, wins + losses).pvalue
    else:
        first = [generator.gauss(0.25, 1) for _ in range(100)]
        second = [0.0] * 100
        exact = stats.ttest_rel(first, second).pvalue  # close enough for normal scores
    result = paired.permutation_test(first, second, permutations=20_000, seed=8)
    assert result is not None
    assert not result.exhaustive
    assert result.p_value == pytest.approx(exact, abs=0.015)
    assert paired.permutation_test(first, second, permutations=20_000, seed=8) == result


def test_holm_equals_its_definition() -> None:
    values = numpy.random.default_rng(5).random(30).tolist()
    order = sorted(values)
    expected = {p: min(1.0, max((30 - i) * q for i, q in enumerate(order[: rank + 1]))) for rank, p in enumerate(order)}
    assert paired.holm(values) == pytest.approx([expected[p] for p in values], abs=CLOSE)


def test_power_and_sample_sizes_are_those_of_the_normal_approximation() -> None:
    design = power.Design(0.4, 0.3, 0.25, alpha=0.01, power=0.9)
    deviation = math.sqrt(0.16 + 0.09 - 2 * 0.25 * 0.12)
    reach = stats.norm.ppf(0.995) + stats.norm.ppf(0.9)
    assert power.required_documents(0.02, design) == math.ceil((reach * deviation / 0.02) ** 2)
    assert power.minimum_detectable_effect(500, design) == close(reach * deviation / math.sqrt(500))
    expected = stats.norm.cdf(0.02 / deviation * math.sqrt(500) - stats.norm.ppf(0.995))
    assert power.achieved_power(0.02, 500, design) == close(expected)


def test_pass_at_k_is_the_hypergeometric_chance() -> None:
    for total, correct, k in ((10, 3, 4), (200, 1, 100), (1000, 17, 64), (5, 5, 5)):
        expected = 1 - stats.hypergeom.pmf(0, total, correct, k)
        assert repeats.pass_at_k(total, correct, k) == pytest.approx(expected, abs=CLOSE)


def mean(items: list[float]) -> float:
    return math.fsum(items) / len(items)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_bootstrap_of_a_mean_at_once_equals_the_one_by_one(clustered: bool) -> None:
    values = numpy.random.default_rng(6).random(90).tolist()
    clusters = [number % 13 for number in range(90)] if clustered else None
    one_by_one = bootstrap.percentile_bootstrap(values, mean, replicates=300, seed=5, clusters=clusters)
    at_once = bootstrap.mean_bootstrap(values, mean, values, replicates=300, seed=5, clusters=clusters)
    assert one_by_one is not None
    assert at_once is not None
    assert at_once.standard_error == pytest.approx(one_by_one.standard_error, rel=CLOSE)
    assert at_once.interval.lower == pytest.approx(one_by_one.interval.lower, rel=CLOSE)
    assert at_once.interval.upper == pytest.approx(one_by_one.interval.upper, rel=CLOSE)


def test_what_is_no_mean_is_found_out_and_asked_no_more_than_needed() -> None:
    calls = 0

    def counted(items: list[float]) -> float:
        nonlocal calls
        calls += 1
        return mean(items)

    values = numpy.random.default_rng(7).random(50).tolist()
    assert bootstrap.mean_bootstrap(values, counted, values, replicates=10_000) is not None
    assert calls == bootstrap.TRIALS
    assert bootstrap.mean_bootstrap(values, lambda items: sorted(items)[25], values) is None
    # Equal to the mean of all the samples, and still another thing.
    labels = [(0.0, "a"), (1.0, "a"), (1.0, "b"), (0.0, "b")] * 5

    def macro(items: list[tuple[float, str]]) -> float:
        groups = {label: [score for score, other in items if other == label] for _, label in items}
        return mean([mean(scores) for scores in groups.values()])

    assert bootstrap.mean_bootstrap(labels, macro, [score for score, _ in labels]) is None


def test_the_bootstrap_is_that_of_scipy_but_for_its_noise() -> None:
    values = numpy.random.default_rng(8).exponential(1, 150)
    expected = stats.bootstrap(
        (values,), numpy.median, n_resamples=4000, method="percentile", rng=numpy.random.default_rng(1)
    )
    ours = bootstrap.percentile_bootstrap(values.tolist(), lambda items: float(numpy.median(items)), replicates=4000)
    assert ours is not None
    assert ours.standard_error == pytest.approx(expected.standard_error, rel=0.1)
    assert ours.interval.lower == pytest.approx(expected.confidence_interval.low, abs=0.05)
    assert ours.interval.upper == pytest.approx(expected.confidence_interval.high, abs=0.05)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda values: intervals.mean_standard_error(values),
        lambda values: intervals.t_interval(values),
        lambda values: intervals.clustered_standard_error(values, list(range(len(values)))),
        lambda values: paired.paired_t(values, values),
        lambda values: paired.permutation_test(values, values),
        lambda values: bootstrap.percentile_bootstrap(values, mean),
        lambda values: bootstrap.mean_bootstrap(values, mean, values),
    ],
)
def test_none_and_one_observation_say_nothing(statistic: Callable[[list[float]], object]) -> None:
    assert statistic([]) is None
    assert statistic([0.7]) is None


def test_equal_observations_have_no_spread() -> None:
    values = [0.1] * 1000
    assert intervals.mean_standard_error(values) == pytest.approx(0.0, abs=1e-15)
    clusters = [number % 10 for number in range(1000)]
    assert intervals.clustered_standard_error(values, clusters) == pytest.approx(0.0, abs=1e-15)
    estimate = bootstrap.mean_bootstrap(values, mean, values)
    assert estimate is not None
    assert estimate.standard_error == pytest.approx(0.0, abs=1e-15)
    assert estimate.interval.lower == pytest.approx(0.1, abs=1e-15)


def test_an_undefined_observation_makes_everything_undefined_and_nothing_fail() -> None:
    values = [1.0, 0.0, math.nan, 1.0]
    error = intervals.mean_standard_error(values)
    assert error is not None
    assert math.isnan(error)
    assert bootstrap.percentile_bootstrap(values, mean) is None
    assert bootstrap.mean_bootstrap(values, mean, values) is None


def test_a_hundred_thousand_documents_are_no_matter() -> None:
    generator = numpy.random.default_rng(9)
    first, second = generator.random(100_000), generator.random(100_000)
    scores = (first < 0.6).astype(float).tolist()
    others = (second < 0.59).astype(float).tolist()
    wins = sum(a > b for a, b in zip(scores, others, strict=True))
    losses = sum(a < b for a, b in zip(scores, others, strict=True))
    t, permutation = paired.paired_t(scores, others), paired.permutation_test(scores, others)
    sign, mcnemar = binary_pairs.sign_test(wins, losses), binary_pairs.mcnemar(wins, losses)
    assert t is not None
    assert permutation is not None
    assert sign is not None
    assert mcnemar is not None
    assert t.p_value == pytest.approx(mcnemar.p_value, abs=1e-3)
    assert permutation.p_value == pytest.approx(mcnemar.p_value, abs=0.02)
    assert sign.p_value == pytest.approx(mcnemar.p_value, abs=0.01)
    estimate = bootstrap.mean_bootstrap(scores, mean, scores, replicates=200)
    assert estimate is not None
    assert estimate.standard_error == pytest.approx(intervals.mean_standard_error(scores), rel=0.2)
