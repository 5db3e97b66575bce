"""Metrics: from a sample's responses and target to a number, by name or by a task's own function."""

from __future__ import annotations

import inspect
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.scoring import likelihood
from lmms_eval_grpc.engine.scoring.aggregations import AGGREGATIONS, Aggregation

Scorer = Callable[..., Any]
"""Called with ``references`` and ``predictions`` (sequences) and the metric's keyword arguments."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of a task's ``metric_list``."""

    name: str
    scorer: Scorer | None
    """None when the task's own ``process_results`` makes the scores, or likelihoods do."""
    kwargs: Mapping[str, Any]
    aggregation: Aggregation
    aggregation_name: str
    """The registered name, or the function's."""
    higher_is_better: bool | None
    all_references: bool = False
    """Whether the scorer wants all acceptable answers at once; else it is asked once for each, and any will do."""

    def score(self, references: list[Any], predictions: list[Any]) -> Any:
        """What the scorer makes of one sample; of a mapping, this metric's entry. The metric must have a scorer."""
        return self._ask(references, references, predictions)

    def score_any(self, references: list[Any], predictions: list[Any]) -> Any:
        """1 where at least one of ``references`` alone scores more than nothing, else 0."""
        if self.all_references:
            return self.score(references, predictions)
        return 1.0 if any(self._ask([one], one, predictions) for one in references) else 0.0

    def _ask(self, references: list[Any], bare: Any, predictions: list[Any]) -> Any:
        if self.scorer is None:
            raise TypeError(f"metric {self.name} has no scorer")
        if _takes_keywords(self.scorer):
            value = self.scorer(references=references, predictions=predictions, **self.kwargs)
        else:  # the older form of a scorer: one list of both
            value = self.scorer([bare, predictions])
        return value[self.name] if isinstance(value, Mapping) else value


def exact_match(
    references: Sequence[Any],
    predictions: Sequence[str],
    regexes_to_ignore: Sequence[str] | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
) -> float:
    """The share of predictions that equal their reference, after what is ignored is removed from both.

    One reference serves several predictions, and one prediction several references; otherwise both must be as many.
    Removed in this order: patterns, case, punctuation, digits. References are compared as text.
    """

    def simplify(text: str) -> str:
        for pattern in regexes_to_ignore or ():
            text = re.sub(pattern, "", text)
        text = text.lower() if ignore_case else text
        text = text.translate(_NO_PUNCTUATION) if ignore_punctuation else text
        return text.translate(_NO_DIGITS) if ignore_numbers else text

    wanted = [simplify(str(reference)) for reference in references]
    given = [simplify(str(prediction)) for prediction in predictions]
    if not wanted or not given:
        raise ValueError("exact_match needs at least one reference and one prediction")
    pairs = max(len(wanted), len(given))
    if len(wanted) not in (1, pairs) or len(given) not in (1, pairs):
        raise ValueError(f"exact_match cannot compare {len(given)} predictions with {len(wanted)} references")
    equal = sum(given[i % len(given)] == wanted[i % len(wanted)] for i in range(pairs))
    return equal / pairs


def anls(references: Sequence[Any], predictions: Sequence[Any], thresh_hold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity (Biten et al. 2019, https://arxiv.org/abs/1905.13648) of one sample.

    The best over all references, 0 below the threshold; of several predictions the first counts. Case and runs of white
    space are ignored for the distance but not for the length that it is divided by, as in lmms-eval.
    """
    prediction = predictions[0] if isinstance(predictions[0], str) else predictions[0][0]
    answer = " ".join(prediction.lower().split())
    distances = []
    for reference in map(str, references):
        length = max(len(reference.upper()), len(prediction.upper()))
        distance = levenshtein_distance(" ".join(reference.lower().split()), answer)
        distances.append(distance / length if length else 0.0)
    similarity = 1 - min(distances)
    return 0.0 if similarity < thresh_hold else similarity


def levenshtein_distance(first: str, second: str) -> int:
    """The fewest insertions, deletions and replacements of one character that turn ``first`` into ``second``."""
    if len(first) > len(second):
        first, second = second, first
    above = list(range(len(first) + 1))
    for row, wanted in enumerate(second, start=1):
        current = [row]
        for column, given in enumerate(first, start=1):
            replaced = above[column - 1] + (given != wanted)
            current.append(min(replaced, above[column] + 1, current[-1] + 1))
        above = current
    return above[-1]


def pair(references: Sequence[Any], predictions: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Both as they are, for metrics that are made of all samples together: ``bleu``, ``chrf``, ``ter``."""
    return list(references), list(predictions)


def bypass(references: Sequence[Any], predictions: Sequence[Any]) -> None:
    """No score at all: the responses are what is wanted."""


def build_metrics(
    metric_list: Sequence[Mapping[str, Any]] | None, output_type: str, has_process_results: bool
) -> tuple[Metric, ...]:
    """The metrics of a task; without a ``metric_list``, lmms-eval's default ones for ``output_type``.

    Raises ValueError for an unknown metric or aggregation, a metric that ``output_type`` does not have, or a missing
    ``metric_list`` where ``output_type`` has no default.
    """
    if metric_list is None and not _DEFAULTS[output_type]:
        raise ValueError(f"output_type {output_type} needs a metric_list, as it has no metric by default")
    entries = [{"metric": name} for name in _DEFAULTS[output_type]] if metric_list is None else metric_list
    metrics = [_build_metric(entry, output_type, has_process_results) for entry in entries]
    return tuple({metric.name: metric for metric in metrics}.values())


def _build_metric(entry: Mapping[str, Any], output_type: str, has_process_results: bool) -> Metric:
    named = entry.get("metric")
    if named is None:
        raise ValueError(f"an entry of metric_list needs a metric, but is {dict(entry)!r:.200}")
    name = named if isinstance(named, str) else getattr(named, "__name__", type(named).__name__)
    known = _REGISTRY.get(name)
    scorer = None if has_process_results else named if callable(named) else _scorer(name, output_type)
    given = entry.get("aggregation", known.aggregation if known else None)
    if given is None:
        raise ValueError(f"metric {name!r} needs an aggregation, e.g. mean, because it is not a registered metric")
    if not callable(given) and given not in AGGREGATIONS:
        raise ValueError(f"metric {name!r}: aggregation {given!r} is none of {', '.join(sorted(AGGREGATIONS))}")
    better = entry.get("higher_is_better", known.higher_is_better if known else None)
    return Metric(
        name=name,
        scorer=scorer,
        kwargs={} if scorer is None else {key: value for key, value in entry.items() if key not in _OWN_KEYS},
        aggregation=given if callable(given) else AGGREGATIONS[given],
        aggregation_name=getattr(given, "__name__", type(given).__name__) if callable(given) else given,
        higher_is_better=better if isinstance(better, bool) else None,
        all_references=name == "anls" or scorer is pair,
    )


def _takes_keywords(scorer: Scorer) -> bool:
    try:
        parameters = inspect.signature(scorer).parameters
    except (TypeError, ValueError):  # built-in functions may have no signature
        return True
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return takes_any or {"references", "predictions"} <= parameters.keys()


def _scorer(name: str, output_type: str) -> Scorer | None:
    known = _REGISTRY.get(name)
    of_likelihoods = likelihood.METRICS.get(output_type)
    if of_likelihoods is not None:
        if name not in of_likelihoods:
            raise ValueError(
                f"metric {name!r} is none of {', '.join(sorted(of_likelihoods))}, which output_type {output_type} has; "
                "give the task a process_results that makes it"
            )
        return None
    if known is None:
        choices = ", ".join(sorted(metric for metric, entry in _REGISTRY.items() if entry.scorer))
        raise ValueError(f"metric {name!r} is none of {choices}; give the task a process_results that makes it")
    if known.scorer is None:
        raise ValueError(
            f"metric {name!r} cannot score generated text by itself; give the task a process_results that makes it"
        )
    return known.scorer


@dataclass(frozen=True, slots=True)
class _Registered:
    aggregation: str
    higher_is_better: bool
    scorer: Scorer | None = None


_OWN_KEYS = frozenset({"metric", "aggregation", "higher_is_better"})

_REGISTRY: Mapping[str, _Registered] = {
    "exact_match": _Registered("mean", True, exact_match),
    "anls": _Registered("mean", True, anls),
    "bypass": _Registered("bypass", True, bypass),
    "acc": _Registered("mean", True),
    "acc_norm": _Registered("mean", True),
    "acc_mutual_info": _Registered("mean", True),
    "acc_all": _Registered("mean", True),
    "brier_score": _Registered("brier_score", False),
    "perplexity": _Registered("perplexity", False),
    "word_perplexity": _Registered("weighted_perplexity", False),
    "byte_perplexity": _Registered("weighted_perplexity", False),
    "bits_per_byte": _Registered("bits_per_byte", False),
    "f1": _Registered("f1", True),
    "mcc": _Registered("matthews_corrcoef", True),
    "bleu": _Registered("bleu", True, pair),
    "chrf": _Registered("chrf", True, pair),
    "ter": _Registered("ter", False, pair),
}

_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "generate_until": ("exact_match",),
    "generate_until_multi_round": ("exact_match",),
    "generate_until_agentic": ("exact_match",),
    "generate_visual_cot": (),
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("perplexity", "acc"),
}

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_DIGITS = str.maketrans("", "", string.digits)
