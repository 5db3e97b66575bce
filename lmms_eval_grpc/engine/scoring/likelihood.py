"""Scores from likelihoods: the defaults of the output types ``loglikelihood`` and ``multiple_choice``.

Everything here is a true log-probability: 0 at best, the larger the better. Most LLaVA-family backends of lmms-eval
return a loss instead, and lmms-eval therefore takes the smallest; :func:`from_loss` turns one into the other at the
border, and both ways give the same predictions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

OUT_OF_RANGE = -100
"""The number of a right choice that is none of the choices; no prediction equals it."""


class Likelihood(NamedTuple):
    """How likely a model finds one continuation."""

    log_probability: float
    """Natural logarithm, summed over the continuation's tokens."""
    is_greedy: bool
    """Whether greedy decoding would produce exactly this continuation."""


def from_loss(loss: float, is_greedy: bool) -> Likelihood:
    """The likelihood that a backend means which returns a loss: the smaller, the better."""
    return Likelihood(-loss, is_greedy)


def score_loglikelihood(metrics: Collection[str], likelihood: Likelihood, continuation: str = "") -> dict[str, Any]:
    """The scores of one document of output type ``loglikelihood``, of those ``metrics`` that this type has.

    ``perplexity`` the log-probability, ``acc`` 1 where the continuation is what greedy decoding gives, and the pairs
    that ``word_perplexity``, ``byte_perplexity`` and ``bits_per_byte`` are aggregated from: the log-probability with
    the number of words, or of UTF-8 bytes, in ``continuation``.
    """
    value, is_greedy = likelihood
    size = len(continuation.encode())
    scores = {
        "perplexity": value,
        "acc": int(is_greedy),
        "word_perplexity": (value, len(re.split(r"\s+", continuation.strip()))),
        "byte_perplexity": (value, size),
        "bits_per_byte": (value, size),
    }
    return {name: score for name, score in scores.items() if name in metrics}


def score_multiple_choice(
    metrics: Collection[str],
    choices: Sequence[str],
    likelihoods: Sequence[Likelihood],
    gold: Any,
    *,
    unconditional: Sequence[Likelihood] | None = None,
) -> dict[str, Any]:
    """The scores of one document of output type ``multiple_choice``, of those ``metrics`` that this type has.

    ``likelihoods`` are of ``choices``, in their order; ``unconditional`` those without the question, which
    ``acc_mutual_info`` needs. ``gold`` is the right choice's number or text, or a list of them any of which is right:
    see :func:`gold_choices`.

    The prediction is the likeliest choice, the first of equals; for ``acc_norm`` the likeliest per character.
    ``exact_match`` is whether greedy decoding gives the right choice, ``f1`` and ``mcc`` (right, predicted) pairs,
    ``brier_score`` the right choice and the probabilities of all, normalised over the choices; a document none of whose
    choices is right is wrong in the first three and has no such pair.

    Raises ValueError when likelihoods and choices are not equally many, or one is NaN.
    """
    _check(choices, likelihoods)
    values = [likelihood.log_probability for likelihood in likelihoods]
    right = gold_choices(gold, choices)
    valid = [number for number in right if number != OUT_OF_RANGE]
    predicted = _largest(values)
    per_character = _largest([value / max(len(choice), 1) for value, choice in zip(values, choices, strict=True)])
    scores: dict[str, Any] = {
        "acc": float(predicted in right),
        "acc_norm": float(per_character in right),
        "exact_match": int(any(likelihoods[number].is_greedy for number in valid)),
    }
    if valid:
        # With several right choices the predicted one stands for them if it is among them.
        label = predicted if predicted in valid else valid[0]
        scores |= {"f1": (label, predicted), "mcc": (label, predicted), "brier_score": (label, _softmax(values))}
    if unconditional is not None:
        _check(choices, unconditional)
        gains = [value - other.log_probability for value, other in zip(values, unconditional, strict=True)]
        scores["acc_mutual_info"] = float(_largest(gains) in right)
    return {name: score for name, score in scores.items() if name in metrics}


def gold_choices(gold: Any, choices: Sequence[str]) -> list[int]:
    """The numbers of the right choices: of a number, of a choice's text, or of a list of either.

    What is none of the choices becomes :data:`OUT_OF_RANGE`, negative numbers included, which Python would count from
    the end: such a document is answered wrong, whatever the model says.
    """
    listed = list(gold) if isinstance(gold, list | tuple) else [gold]
    return [_gold_choice(item, choices) for item in listed]


def as_likelihoods(values: Sequence[Any]) -> list[Likelihood]:
    """(log-probability, is greedy) pairs, lists from JSON included, as likelihoods.

    Raises TypeError for anything else, as text would be.
    """
    pairs = []
    for value in values:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise TypeError(f"a likelihood must be a pair (log-probability, is greedy), but is {value!r:.100}")
        pairs.append(Likelihood(float(value[0]), bool(value[1])))
    return pairs


def _gold_choice(item: Any, choices: Sequence[str]) -> int:
    if isinstance(item, str):
        return choices.index(item) if item in choices else OUT_OF_RANGE
    try:
        number = int(item)
    except (TypeError, ValueError):
        return OUT_OF_RANGE
    return number if 0 <= number < len(choices) else OUT_OF_RANGE


def _check(choices: Sequence[str], likelihoods: Sequence[Likelihood]) -> None:
    if not choices or len(choices) != len(likelihoods):
        raise ValueError(f"each of {len(choices)} choices needs a likelihood, but there are {len(likelihoods)}")
    if any(math.isnan(likelihood.log_probability) for likelihood in likelihoods):
        raise ValueError("a log-probability is not a number; the model's output overflowed")


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    if math.isinf(top):
        return [1 / len(values)] * len(values)
    weights = [math.exp(value - top) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


METRICS: Mapping[str, frozenset[str]] = {
    "loglikelihood": frozenset({"perplexity", "acc", "word_perplexity", "byte_perplexity", "bits_per_byte"}),
    "multiple_choice": frozenset(
        {"acc", "acc_norm", "acc_mutual_info", "exact_match", "f1", "mcc", "brier_score", "bypass"}
    ),
}
"""By output type the metrics that need no ``process_results`` of the task's own."""
