"""Aggregations by name: from the scores of all samples to the score of a task."""

from __future__ import annotations

import importlib
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Aggregation = Callable[..., Any]
"""Called with the list of all samples' scores, in document order; some also take ``args``."""


def mean(items: Sequence[float]) -> float:
    return sum(items) / len(items)


def median(items: Sequence[float]) -> float:
    """The middle value; between two of them, their mean."""
    return statistics.median(items)


def bypass(items: Sequence[Any]) -> int:
    """999, lmms-eval's mark for a task that only collects responses."""
    return 999


def perplexity(items: Sequence[float]) -> float:
    """Of log-likelihoods."""
    return math.exp(-mean(items))


def weighted_perplexity(items: Sequence[tuple[float, float]]) -> float:
    """Of (log-likelihood, weight) pairs."""
    return math.exp(-_weighted_mean(items))


def bits_per_byte(items: Sequence[tuple[float, float]]) -> float:
    """Of (log-likelihood, number of bytes) pairs."""
    return -_weighted_mean(items) / math.log(2)


def f1(items: Sequence[tuple[int, int]]) -> float:
    """F1 of the class 1 over (gold, predicted) pairs of 0 and 1; 0 where 1 never occurs."""
    _require_binary(items)
    both = sum(1 for gold, predicted in items if gold == 1 and predicted == 1)
    either = sum((gold == 1) + (predicted == 1) for gold, predicted in items)
    return 2 * both / either if either else 0.0


def matthews_corrcoef(items: Sequence[tuple[Any, Any]]) -> float:
    """Matthews correlation of (gold, predicted) labels, for any number of classes; 0 where one side is constant.

    Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006.
    """
    total = len(items)
    right = sum(gold == predicted for gold, predicted in items)
    golds = Counter(gold for gold, _ in items)
    predictions = Counter(predicted for _, predicted in items)
    covariance = right * total - sum(golds[label] * predictions[label] for label in golds)
    spread = (total**2 - sum(n * n for n in golds.values())) * (total**2 - sum(n * n for n in predictions.values()))
    return covariance / math.sqrt(spread) if spread else 0.0


def brier_score(items: Sequence[tuple[int, Sequence[float]]]) -> float:
    """Mean squared distance between (number of the right class, probabilities of all classes) and certainty."""
    return mean(
        [sum((share - (i == gold)) ** 2 for i, share in enumerate(probabilities)) for gold, probabilities in items]
    )


def acc_all(items: Sequence[tuple[Any, Mapping[str, Any]]]) -> float:
    """The share of questions all of whose answers are judged rightly, of (predicted, document) pairs.

    A document says to which question it belongs (``idx: {paragraph, question}``) and whether its answer is a right one
    (``label: 1``), as MultiRC's do.
    """
    questions: dict[tuple[Any, Any], bool] = {}
    for predicted, document in items:
        key = (document["idx"]["paragraph"], document["idx"]["question"])
        questions[key] = questions.get(key, True) and (document["label"] == 1) == predicted
    return sum(questions.values()) / len(questions)


def bleu(items: Sequence[tuple[Any, Any]]) -> float:
    """Corpus BLEU of (reference or references, prediction) pairs. Needs the sacrebleu package."""
    return _sacrebleu("corpus_bleu", items)


def chrf(items: Sequence[tuple[Any, Any]]) -> float:
    """Corpus chrF of (reference or references, prediction) pairs. Needs the sacrebleu package."""
    return _sacrebleu("corpus_chrf", items)


def ter(items: Sequence[tuple[Any, Any]]) -> float:
    """Translation error rate of (reference or references, prediction) pairs. Needs the sacrebleu package."""
    return _sacrebleu("corpus_ter", items)


AGGREGATIONS: Mapping[str, Aggregation] = {
    "acc_all": acc_all,
    "bits_per_byte": bits_per_byte,
    "bleu": bleu,
    "brier_score": brier_score,
    "bypass": bypass,
    "chrf": chrf,
    "f1": f1,
    "matthews_corrcoef": matthews_corrcoef,
    "mean": mean,
    "median": median,
    "perplexity": perplexity,
    "ter": ter,
    "weighted_perplexity": weighted_perplexity,
}


def _weighted_mean(items: Sequence[tuple[float, float]]) -> float:
    return sum(value for value, _ in items) / sum(weight for _, weight in items)


def _require_binary(items: Sequence[tuple[int, int]]) -> None:
    odd = {label for pair in items for label in pair if label not in (0, 1)}
    if odd:
        raise ValueError(f"f1 is for labels 0 and 1, but there are {sorted(map(str, odd))[:5]}")


def _sacrebleu(function: str, items: Sequence[tuple[Any, Any]]) -> float:
    try:
        sacrebleu = importlib.import_module("sacrebleu")
    except ImportError as error:
        raise ImportError("bleu, chrf and ter need the sacrebleu package: pip install sacrebleu") from error
    references = [[gold] if isinstance(gold, str) else list(gold) for gold, _ in items]
    predictions = [predicted if isinstance(predicted, str) else predicted[0] for _, predicted in items]
    # Sacrebleu wants the first references of all, then the second ones; None where a sample has fewer.
    most = max(map(len, references))
    by_position = [[gold[i] if i < len(gold) else None for gold in references] for i in range(most)]
    return float(getattr(sacrebleu, function)(predictions, by_position).score)
