"""Metrics and aggregations against values worked out by hand or by scikit-learn."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import sklearn.metrics

from lmms_eval_grpc.engine.scoring import aggregations
from lmms_eval_grpc.engine.scoring.metrics import anls, build_metrics, exact_match, levenshtein_distance


@pytest.mark.parametrize(
    ("references", "predictions", "kwargs", "expected"),
    [
        (["a"], ["a"], {}, 1.0),
        (["a"], ["A"], {}, 0.0),
        (["a"], ["A"], {"ignore_case": True}, 1.0),
        (["a."], ["a"], {}, 0.0),
        (["a."], ["a"], {"ignore_punctuation": True}, 1.0),
        (["a1"], ["a2"], {"ignore_numbers": True}, 1.0),
        (["the cat"], ["cat"], {"regexes_to_ignore": ["^the ", "x"]}, 1.0),
        (["The"], ["x"], {"regexes_to_ignore": ["the"], "ignore_case": True}, 0.0),
        ([3], ["3"], {}, 1.0),
        (["a", "b"], ["a"], {}, 0.5),
        (["a"], ["a", "b"], {}, 0.5),
        (["a", "b"], ["a", "b"], {}, 1.0),
    ],
)
def test_exact_match(references: list[Any], predictions: list[str], kwargs: dict[str, Any], expected: float) -> None:
    assert exact_match(references=references, predictions=predictions, **kwargs) == expected


def test_exact_match_refuses_lists_that_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot compare 3 predictions with 2 references"):
        exact_match(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least one"):
        exact_match([], ["a"])


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0)],
)
def test_levenshtein_distance(first: str, second: str, distance: int) -> None:
    assert levenshtein_distance(first, second) == levenshtein_distance(second, first) == distance


@pytest.mark.parametrize(
    ("references", "prediction", "expected"),
    [
        (["hello"], "hello", 1.0),
        (["Hello  World"], " hello world ", 1.0),
        (["hello"], "hallo", 0.8),
        (["abcd"], "ab", 0.5),
        (["abcd"], "a", 0.0),
        (["x", "hallo"], "hallo", 1.0),
        ([""], "", 1.0),
        ([2020], "2020", 1.0),
    ],
)
def test_anls(references: list[Any], prediction: str, expected: float) -> None:
    assert anls(references=references, predictions=[prediction]) == pytest.approx(expected)


def test_default_metric_of_generated_text() -> None:
    (metric,) = build_metrics(None, "generate_until", has_process_results=False)
    assert (metric.name, metric.aggregation_name, metric.higher_is_better) == ("exact_match", "mean", True)


def test_a_metric_of_process_results_may_have_any_name_but_needs_an_aggregation() -> None:
    (metric,) = build_metrics(
        [{"metric": "mine", "aggregation": max, "higher_is_better": False}], "generate_until", True
    )
    assert (metric.scorer, metric.aggregation_name, metric.higher_is_better) == (None, "max", False)
    (metric,) = build_metrics([{"metric": "acc"}], "generate_until", True)
    assert metric.aggregation_name == "mean"
    with pytest.raises(ValueError, match="'mine' needs an aggregation"):
        build_metrics([{"metric": "mine"}], "generate_until", True)
    with pytest.raises(ValueError, match=r"aggregation 'average' is none of .*mean"):
        build_metrics([{"metric": "mine", "aggregation": "average"}], "generate_until", True)


def test_a_function_as_metric_takes_its_name_and_keywords() -> None:
    def close(references: list[Any], predictions: list[str], by: int) -> bool:
        return abs(int(references[0]) - int(predictions[0])) <= by

    (metric,) = build_metrics([{"metric": close, "aggregation": "mean", "by": 2}], "generate_until", False)
    assert (metric.name, metric.kwargs, metric.higher_is_better) == ("close", {"by": 2}, None)
    assert metric.scorer is close


def test_median_sorts() -> None:
    assert aggregations.median([3, 1, 2]) == 2
    assert aggregations.median([4, 1, 3, 2]) == 2.5


def test_perplexities() -> None:
    assert aggregations.perplexity([-1.0, -3.0]) == pytest.approx(math.exp(2))
    assert aggregations.weighted_perplexity([(-2.0, 1.0), (-4.0, 5.0)]) == pytest.approx(math.e)
    assert aggregations.bits_per_byte([(-2.0, 1.0), (-4.0, 5.0)]) == pytest.approx(1 / math.log(2))


def test_f1_and_matthews_agree_with_scikit_learn() -> None:
    generator = random.Random(0)
    pairs = [(generator.randint(0, 1), generator.randint(0, 1)) for _ in range(50)]
    golds, predictions = zip(*pairs, strict=True)
    assert aggregations.f1(pairs) == pytest.approx(sklearn.metrics.f1_score(golds, predictions))
    many = [(generator.randint(0, 3), generator.randint(0, 3)) for _ in range(50)]
    golds, predictions = zip(*many, strict=True)
    expected = sklearn.metrics.matthews_corrcoef(golds, predictions)
    assert aggregations.matthews_corrcoef(many) == pytest.approx(expected)
    assert aggregations.f1([(0, 0)]) == 0.0
    assert aggregations.matthews_corrcoef([(1, 1), (1, 1)]) == 0.0


def test_f1_refuses_other_labels() -> None:
    with pytest.raises(ValueError, match="labels 0 and 1"):
        aggregations.f1([(0, 2)])


def test_brier_score() -> None:
    assert aggregations.brier_score([(0, [0.8, 0.2]), (1, [0.5, 0.5])]) == pytest.approx((0.08 + 0.5) / 2)
