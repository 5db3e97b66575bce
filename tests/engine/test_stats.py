"""Statistics against printed tables and independent formulas."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_eval_grpc.engine.stats import student_t
from lmms_eval_grpc.engine.stats.bootstrap import percentile_bootstrap
from lmms_eval_grpc.engine.stats.intervals import (
    clustered_standard_error,
    clustered_t_interval,
    mean_standard_error,
    t_interval,
)


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [
        # Closed forms for one and two degrees of freedom, and the usual table with more digits (R's qt).
        (0.975, 1, math.tan(math.pi * 0.475)),
        (0.975, 2, 0.95 * math.sqrt(2 / (1 - 0.95**2))),
        (0.975, 3, 3.18244630528371),
        (0.975, 5, 2.57058183661474),
        (0.975, 10, 2.22813885196494),
        (0.975, 30, 2.04227245630124),
        (0.975, 100, 1.98397151852355),
        (0.975, 1000, 1.96233908082641),
        (0.995, 10, 3.16927266917652),
        (0.95, 7, 1.89457860509001),
        (0.975, 1e7, 1.95996421748816),
    ],
)
def test_quantiles_of_students_t(probability: float, degrees: float, value: float) -> None:
    assert student_t.quantile(probability, degrees) == pytest.approx(value, abs=1e-6)
    assert student_t.quantile(1 - probability, degrees) == pytest.approx(-value, abs=1e-6)


@given(st.floats(0.001, 0.999), st.integers(1, 5000))
def test_the_quantile_inverts_the_distribution(probability: float, degrees: int) -> None:
    value = student_t.quantile(probability, degrees)
    assert student_t.cumulative(value, degrees) == pytest.approx(probability, abs=1e-9)


def test_the_middle_is_zero_and_nonsense_is_refused() -> None:
    assert student_t.quantile(0.5, 3) == 0.0
    assert student_t.cumulative(0.0, 3) == 0.5
    for probability in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            student_t.quantile(probability, 3)
    with pytest.raises(ValueError, match="must be positive"):
        student_t.quantile(0.9, 0)


def test_standard_error_and_interval_of_a_mean() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert mean_standard_error(values) == pytest.approx(math.sqrt(5 / 3) / 2)
    interval = t_interval(values)
    assert interval is not None
    reach = 3.182446305 * math.sqrt(5 / 3) / 2
    assert (interval.lower, interval.upper) == (pytest.approx(2.5 - reach), pytest.approx(2.5 + reach))


def test_too_little_data_gives_nothing() -> None:
    assert mean_standard_error([]) is None
    assert mean_standard_error([1.0]) is None
    assert t_interval([1.0]) is None
    assert clustered_standard_error([], []) is None
    assert clustered_standard_error([1.0, 2.0], ["a", "a"]) is None
    assert clustered_t_interval([1.0, 2.0], ["a", "a"]) is None
    assert percentile_bootstrap([1.0], lambda items: items[0]) is None
    assert percentile_bootstrap([1.0, 2.0], sum, clusters=["a", "a"]) is None


def test_bounds_are_not_cut() -> None:
    interval = t_interval([1.0, 1.0, 0.0])
    assert interval is not None
    assert interval.lower < 0
    assert interval.upper > 1


def test_the_t_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = random.Random(7)
    hits = 0
    for _ in range(400):
        interval = t_interval([generator.gauss(3, 2) for _ in range(8)])
        assert interval is not None
        hits += interval.lower <= 3 <= interval.upper
    assert 0.92 <= hits / 400 <= 0.98


def test_clusters_of_one_are_independent_samples() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert clustered_standard_error(values, range(5)) == pytest.approx(mean_standard_error(values))
    assert clustered_t_interval(values, range(5)) == t_interval(values)


def test_repeating_each_sample_does_not_make_the_clustered_error_smaller() -> None:
    values = [0.0, 1.0, 1.0, 0.0]
    repeated = [value for value in values for _ in range(10)]
    clusters = [i // 10 for i in range(40)]
    clustered = clustered_standard_error(repeated, clusters)
    plain = mean_standard_error(repeated)
    assert clustered == pytest.approx(mean_standard_error(values))
    assert plain is not None
    assert clustered is not None
    assert clustered > 3 * plain


def test_the_bootstrap_of_a_mean_agrees_with_its_formula_and_repeats_itself() -> None:
    generator = random.Random(1)
    values = [generator.random() for _ in range(200)]

    def mean(items: list[float]) -> float:
        return sum(items) / len(items)

    estimate = percentile_bootstrap(values, mean, replicates=2000, seed=3)
    assert estimate is not None
    assert estimate.standard_error == pytest.approx(mean_standard_error(values), rel=0.1)
    interval = t_interval(values)
    assert interval is not None
    assert estimate.interval.lower == pytest.approx(interval.lower, abs=0.01)
    assert estimate.interval.upper == pytest.approx(interval.upper, abs=0.01)
    assert percentile_bootstrap(values, mean, replicates=2000, seed=3) == estimate
    assert percentile_bootstrap(values, mean, replicates=2000, seed=4) != estimate


def test_whole_clusters_are_drawn() -> None:
    items = [(cluster, i) for cluster in range(5) for i in range(3)]
    sizes = set()

    def check(drawn: list[tuple[int, int]]) -> float:
        for start in range(0, len(drawn), 3):
            assert [i for _, i in drawn[start : start + 3]] == [0, 1, 2]
            assert len({cluster for cluster, _ in drawn[start : start + 3]}) == 1
        sizes.add(len(drawn))
        return float(drawn[0][0])

    percentile_bootstrap(items, check, replicates=50, clusters=[cluster for cluster, _ in items])
    assert sizes == {15}


def test_an_undefined_replicate_leaves_no_interval() -> None:
    assert percentile_bootstrap([1.0, 2.0], lambda items: math.nan, replicates=10) is None
