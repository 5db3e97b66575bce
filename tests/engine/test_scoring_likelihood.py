"""Scores from likelihoods, and the metrics that are made of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.scoring import aggregations
from lmms_eval_grpc.engine.scoring.likelihood import (
    OUT_OF_RANGE,
    Likelihood,
    as_likelihoods,
    from_loss,
    gold_choices,
    score_loglikelihood,
    score_multiple_choice,
)
from lmms_eval_grpc.engine.scoring.metrics import build_metrics
from lmms_eval_grpc.engine.scoring.process import ScoringError, score_sample
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

CHOICES = ["red", "a green leaf", "blue"]
ALL = {"acc", "acc_norm", "exact_match", "f1", "mcc", "brier_score", "acc_mutual_info"}


def likelihoods(*values: float, greedy: int | None = None) -> list[Likelihood]:
    return [Likelihood(value, number == greedy) for number, value in enumerate(values)]


def test_the_likeliest_choice_is_the_prediction() -> None:
    scores = score_multiple_choice(ALL, CHOICES, likelihoods(-2.0, -3.0, -4.0, greedy=0), 0)
    assert (scores["acc"], scores["acc_norm"], scores["exact_match"]) == (1.0, 0.0, 1)
    assert scores["f1"] == scores["mcc"] == (0, 0)
    label, shares = scores["brier_score"]
    assert label == 0
    assert sum(shares) == pytest.approx(1)
    assert shares[0] / shares[1] == pytest.approx(math.e)
    assert "acc_mutual_info" not in scores
    # -3 over twelve characters is the likeliest per character.
    assert score_multiple_choice({"acc_norm"}, CHOICES, likelihoods(-2.0, -3.0, -4.0), 1) == {"acc_norm": 1.0}


def test_losses_and_log_probabilities_give_the_same_predictions() -> None:
    losses = (2.0, 3.0, 4.0)
    by_loss = score_multiple_choice(ALL, CHOICES, [from_loss(loss, False) for loss in losses], 1)
    assert by_loss == score_multiple_choice(ALL, CHOICES, likelihoods(-2.0, -3.0, -4.0), 1)
    assert by_loss["acc"] == float(min(range(3), key=losses.__getitem__) == 1)
    assert by_loss["acc_norm"] == float(min(range(3), key=lambda i: losses[i] / len(CHOICES[i])) == 1)


def test_mutual_information_takes_away_what_the_choice_alone_is_worth() -> None:
    conditional, alone = likelihoods(-2.0, -3.0, -4.0), likelihoods(-1.0, -3.5, -9.0)
    scores = score_multiple_choice(ALL, CHOICES, conditional, 2, unconditional=alone)
    assert (scores["acc"], scores["acc_mutual_info"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("gold", "numbers"),
    [
        (1, [1]), ("blue", [2]), ("pink", [OUT_OF_RANGE]), (3, [OUT_OF_RANGE]), (-1, [OUT_OF_RANGE]),
        ([0, 2], [0, 2]), ([0, 5], [0, OUT_OF_RANGE]), (None, [OUT_OF_RANGE]), (True, [1]),
    ],
)  # fmt: skip
def test_what_may_name_the_right_choice(gold: Any, numbers: list[int]) -> None:
    assert gold_choices(gold, CHOICES) == numbers


def test_any_of_several_right_choices_will_do_and_without_one_all_is_wrong() -> None:
    scores = score_multiple_choice(ALL, CHOICES, likelihoods(-1.0, -2.0, -3.0, greedy=2), [0, 2])
    assert (scores["acc"], scores["exact_match"], scores["f1"]) == (1.0, 1, (0, 0))
    assert score_multiple_choice(ALL, CHOICES, likelihoods(-1.0, -2.0, -3.0, greedy=0), "pink") == {
        "acc": 0.0, "acc_norm": 0.0, "exact_match": 0
    }  # fmt: skip


def test_likelihoods_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="each of 3 choices needs a likelihood, but there are 2"):
        score_multiple_choice(ALL, CHOICES, likelihoods(-1.0, -2.0), 0)
    with pytest.raises(ValueError, match="not a number"):
        score_multiple_choice(ALL, CHOICES, likelihoods(-1.0, math.nan, -1.0), 0)
    for value in ("text", (1.0,), 3.0):
        with pytest.raises(TypeError, match="a likelihood must be a pair"):
            as_likelihoods([value])
    assert as_likelihoods([[-1, 0]]) == [Likelihood(-1.0, False)]


def test_impossible_choices_have_equal_shares_or_none() -> None:
    _, shares = score_multiple_choice(ALL, CHOICES, likelihoods(-math.inf, -math.inf, -math.inf), 0)["brier_score"]
    assert shares == pytest.approx([1 / 3] * 3)
    _, shares = score_multiple_choice(ALL, CHOICES, likelihoods(0.0, -math.inf, -math.inf), 0)["brier_score"]
    assert shares == [1.0, 0.0, 0.0]


def test_the_perplexity_family() -> None:
    metrics = {"perplexity", "acc", "word_perplexity", "byte_perplexity", "bits_per_byte"}
    scores = score_loglikelihood(metrics, Likelihood(-6.0, True), " two wörds ")
    assert scores == {
        "perplexity": -6.0, "acc": 1, "word_perplexity": (-6.0, 2), "byte_perplexity": (-6.0, 12),
        "bits_per_byte": (-6.0, 12),
    }  # fmt: skip
    assert aggregations.perplexity([-1.0, -3.0]) == pytest.approx(math.exp(2))
    assert aggregations.weighted_perplexity([(-6.0, 2), (-4.0, 3)]) == pytest.approx(math.exp(2))
    assert aggregations.bits_per_byte([(-6.0, 12), (-2.0, 4)]) == pytest.approx(0.5 / math.log(2))


def test_aggregations_of_pairs_agree_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    pairs = [(0, 0), (1, 1), (1, 0), (0, 1), (1, 1), (0, 0), (1, 1)]
    golds, predictions = zip(*pairs, strict=True)
    assert aggregations.f1(pairs) == pytest.approx(sklearn.f1_score(golds, predictions))
    assert aggregations.matthews_corrcoef(pairs) == pytest.approx(sklearn.matthews_corrcoef(golds, predictions))
    shares = [(0, [0.7, 0.3]), (1, [0.6, 0.4])]
    assert aggregations.brier_score(shares) == pytest.approx((0.09 + 0.09 + 0.36 + 0.36) / 2)


def test_a_question_is_right_when_all_its_answers_are() -> None:
    def answer(question: int, label: int) -> dict[str, Any]:
        return {"idx": {"paragraph": 0, "question": question}, "label": label}

    items = [(True, answer(0, 1)), (False, answer(0, 0)), (True, answer(1, 1)), (True, answer(1, 0))]
    assert aggregations.acc_all(items) == 0.5


def test_translation_scores_need_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(ImportError, match="pip install sacrebleu"):
        aggregations.bleu([("a", "a")])


@pytest.mark.parametrize("function", ["bleu", "chrf", "ter"])
def test_translation_scores(function: str) -> None:
    same = [(["a cat sat on the mat"], ["a cat sat on the mat"]), (["one dog ran far away"], ["one dog ran far away"])]
    assert getattr(aggregations, function)(same) == pytest.approx(0.0 if function == "ter" else 100.0)


DOCUMENTS = [{"question": f"q{i}", "choices": ["red", "blue"], "answer": i % 2} for i in range(2)]


def test_a_multiple_choice_task_scores_its_choices(tmp_path: Path) -> None:
    write_task(tmp_path, "output_type: multiple_choice\ndoc_to_choice: choices\n", documents=DOCUMENTS)
    task = load(tmp_path)
    (score,) = score_sample(task, 1, [(-2.0, False), (-1.0, True)])
    assert score.scores == {"acc": 1.0, "acc_norm": 1.0}
    assert score.filtered_responses == ("[-2.0, false]", "[-1.0, true]")
    with pytest.raises(ScoringError, match="a likelihood must be a pair"):
        score_sample(task, 1, ["red", "blue"])


def test_mutual_information_of_a_task(tmp_path: Path) -> None:
    keys = """
        output_type: multiple_choice
        doc_to_choice: choices
        metric_list: [{metric: acc, aggregation: mean}, {metric: acc_mutual_info, aggregation: mean}]
    """
    write_task(tmp_path, keys, documents=DOCUMENTS)
    given = [(-2.0, False), (-3.0, False), (-1.0, False), (-9.0, False)]
    (score,) = score_sample(load(tmp_path), 1, given)
    assert score.scores == {"acc": 0.0, "acc_mutual_info": 1.0}


def test_a_loglikelihood_task(tmp_path: Path) -> None:
    write_task(tmp_path, "output_type: loglikelihood\n")
    (score,) = score_sample(load(tmp_path), 0, [(-2.5, True)])
    assert score.scores == {"perplexity": -2.5, "acc": 1}


def test_a_metric_that_an_output_type_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'anls' is none of .*which output_type multiple_choice has"):
        build_metrics([{"metric": "anls"}], "multiple_choice", has_process_results=False)
    (metric,) = build_metrics([{"metric": "bits_per_byte"}], "loglikelihood", has_process_results=False)
    assert (metric.aggregation_name, metric.scorer) == ("bits_per_byte", None)
