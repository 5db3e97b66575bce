"""Repeats, pass@k and groups, against hand-made figures and other formulas."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from lmms_eval_grpc.engine.stats import groups, intervals, repeats

DOCUMENTS = [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_the_four_figures_of_repeats() -> None:
    assert repeats.expected_accuracy(DOCUMENTS) == 9 / 16
    assert repeats.consensus_accuracy(DOCUMENTS) == 0.5
    assert repeats.internal_variance(DOCUMENTS) == pytest.approx((0.25 + 1 / 3) / 4)
    assert repeats.consistency_rate(DOCUMENTS) == 0.5


def test_a_document_is_one_observation() -> None:
    means = [sum(scores) / len(scores) for scores in DOCUMENTS]
    assert repeats.expected_accuracy_error(DOCUMENTS) == pytest.approx(intervals.mean_standard_error(means), abs=1e-12)
    interval, plain = repeats.expected_accuracy_interval(DOCUMENTS), intervals.t_interval(means)
    assert interval is not None
    assert plain is not None
    assert (interval.lower, interval.upper) == (pytest.approx(plain.lower), pytest.approx(plain.upper))


def test_no_repeats_give_no_figures() -> None:
    for figure in (
        repeats.expected_accuracy, repeats.expected_accuracy_error, repeats.expected_accuracy_interval,
        repeats.consensus_accuracy, repeats.internal_variance, repeats.consistency_rate,
    ):  # fmt: skip
        assert figure([]) is None
    assert repeats.internal_variance([[1.0], [0.0]]) is None
    assert repeats.expected_accuracy_error([[1.0, 0.0]]) is None


def test_pass_at_k_is_the_share_of_draws_with_a_right_answer() -> None:
    for total, correct, k in itertools.product(range(1, 8), range(8), range(1, 8)):
        if correct > total or k > total:
            continue
        draws = list(itertools.combinations([1] * correct + [0] * (total - correct), k))
        assert repeats.pass_at_k(total, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert repeats.pass_at_k(200, 13, 10) == pytest.approx(1 - math.comb(187, 10) / math.comb(200, 10))


def test_pass_at_k_needs_k_responses_and_sound_counts() -> None:
    assert repeats.pass_at_k(3, 1, 4) is None
    assert repeats.pass_at_k_per_document([[1.0, 0.0], [1.0]], 2) is None
    assert repeats.pass_at_k_per_document([], 1) is None
    assert repeats.pass_at_k_per_document(DOCUMENTS, 1) == [1.0, 0.75, 0.5, 0.0]
    for responses, correct, k in ((2, 3, 1), (2, -1, 1), (2, 1, 0)):
        with pytest.raises(ValueError, match=r"pass@k needs"):
            repeats.pass_at_k(responses, correct, k)


def test_a_groups_error_is_that_of_its_weighted_sum() -> None:
    weights = groups.group_weights([10, 30], weight_by_size=False)
    assert weights == [0.5, 0.5]
    assert groups.group_mean([0.2, 0.6], weights) == pytest.approx(0.4)
    assert groups.group_standard_error([0.3, 0.4], weights) == pytest.approx(0.25)
    sized = groups.group_weights([10, 30], weight_by_size=True)
    assert sized == [0.25, 0.75]
    assert groups.group_standard_error([0.3, 0.4], sized) == pytest.approx(math.hypot(0.075, 0.3))


def test_a_groups_error_agrees_with_simulation() -> None:
    generator = random.Random(5)
    sizes = [20, 80]
    values = [
        sum(statistics.fmean(generator.gauss(0, 1) for _ in range(size)) for size in sizes) / 2 for _ in range(3000)
    ]
    expected = groups.group_standard_error([1 / math.sqrt(size) for size in sizes], [0.5, 0.5])
    assert statistics.stdev(values) == pytest.approx(expected, rel=0.05)


def test_an_unknown_error_makes_the_groups_unknown() -> None:
    assert groups.group_standard_error([0.1, None], [0.5, 0.5]) is None
    assert groups.group_standard_error([], []) is None
    assert groups.pooled_standard_error([0.1, None], [5, 5]) is None
    assert groups.pooled_standard_error([0.1, 0.1], [1, 1]) is None
    with pytest.raises(ValueError, match="at least one task"):
        groups.group_weights([], weight_by_size=False)
    with pytest.raises(ValueError, match="needs samples"):
        groups.group_weights([0, 0], weight_by_size=True)
    with pytest.raises(ValueError):
        groups.group_standard_error([0.1], [0.5, 0.5])


def test_the_pooled_error_is_that_of_all_samples_together_when_means_are_equal() -> None:
    one, two = [0.0, 1.0] * 20, [0.0, 1.0] * 60
    pooled = groups.pooled_standard_error(
        [intervals.mean_standard_error(one), intervals.mean_standard_error(two)], [len(one), len(two)]
    )
    assert pooled == pytest.approx(intervals.mean_standard_error(one + two), rel=0.01)
