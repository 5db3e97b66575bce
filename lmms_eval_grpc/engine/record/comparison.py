"""Two runs compared, document by document: is the one better, worse, or is there not enough evidence to say?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.record.stored import StoredSample
from lmms_eval_grpc.engine.stats import power
from lmms_eval_grpc.engine.stats.binary_pairs import PairsTest, mcnemar, sign_test
from lmms_eval_grpc.engine.stats.paired import (
    PERMUTATIONS,
    PairedT,
    PermutationTest,
    holm,
    paired_t,
    permutation_test,
)

Verdict = Literal["first", "second", "not_enough_evidence"]
"""Which run is better."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The scores of two runs in one metric, over the documents that both scored."""

    task: str
    metric: str
    filter: str
    doc_ids: tuple[int, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    only_first: int
    """Documents that only the first run scored; they are left out."""
    only_second: int

    @property
    def is_binary(self) -> bool:
        """Whether every score is 0 or 1."""
        return all(score in (0, 1) for score in (*self.first, *self.second))


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of one task."""

    pairs: Pairs
    mean_first: float | None
    mean_second: float | None
    difference: float | None
    """First minus second; None where they share no document."""
    t: PairedT | None
    permutation: PermutationTest | None
    mcnemar: PairsTest | None
    """Only for scores of 0 and 1."""
    sign: PairsTest | None
    p_value: float
    """Of the test that fits best: McNemar's for right-or-wrong scores, the t test with clusters where there are any,
    else the permutation test. 1 where there are too few documents for any."""
    method: str
    """That test's name; empty where there is none."""
    adjusted_p_value: float
    """By Holm, over all the metrics that were compared together."""
    verdict: Verdict
    minimum_detectable_effect: float | None
    """The smallest true difference that so many documents would have shown with a power of 80 %; None where the
    differences do not vary."""


def compare_runs(
    first: Sequence[StoredSample],
    second: Sequence[StoredSample],
    *,
    metrics: Sequence[str] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    clusters: Mapping[tuple[str, int], Hashable] | None = None,
    score_key: str = "score",
    alpha: float = power.DEFAULT_ALPHA,
    permutations: int = PERMUTATIONS,
    seed: int = 1234,
) -> list[MetricComparison]:
    """Every metric that both runs have, or those in ``metrics``, by task and filter.

    Samples belong together by task and document; errors are no scores, and their documents are left out of both runs.
    ``higher_is_better`` is by metric, true where it says nothing; ``clusters`` gives the cluster of a task's document.
    A verdict needs an adjusted p-value below ``alpha``. The same seed gives the same numbers.

    Raises EvaluationError DOCUMENTS_DIFFER where documents of one number are not the same, NOTHING_TO_COMPARE where the
    runs have no metric in common.
    """
    compared = [
        _compare(pairs, clusters, alpha, permutations, seed)
        for pairs in pair_samples(first, second, metrics, score_key)
    ]
    adjusted = holm([one.p_value for one in compared])
    return [
        replace(one, adjusted_p_value=value, verdict=_verdict(one, value, alpha, higher_is_better or {}))
        for one, value in zip(compared, adjusted, strict=True)
    ]


def pair_samples(
    first: Sequence[StoredSample],
    second: Sequence[StoredSample],
    metrics: Sequence[str] | None = None,
    score_key: str = "score",
) -> list[Pairs]:
    """The scores that both runs have, paired by task and document, sorted by task, filter and metric.

    Raises EvaluationError as :func:`compare_runs` does.
    """
    check_documents(first, second)
    ours, theirs = _by_metric(first, metrics, score_key), _by_metric(second, metrics, score_key)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared and metrics is not None:
        raise EvaluationError(
            "NOTHING_TO_COMPARE",
            f"the runs have no score of {' or '.join(metrics)} in common; they have "
            f"{_names(_by_metric(first, None, score_key))} and {_names(_by_metric(second, None, score_key))}",
        )
    if not shared:
        raise EvaluationError(
            "NOTHING_TO_COMPARE",
            f"the runs have no metric of a task in common: {_names(ours)} and {_names(theirs)}; "
            "name samples files of the same tasks",
        )
    pairs = []
    for key in shared:
        a, b = ours[key], theirs[key]
        doc_ids = tuple(sorted(a.keys() & b.keys()))
        task, filter_name, metric = key
        pairs.append(
            Pairs(
                task,
                metric,
                filter_name,
                doc_ids,
                tuple(a[doc_id] for doc_id in doc_ids),
                tuple(b[doc_id] for doc_id in doc_ids),
                only_first=len(a.keys() - b.keys()),
                only_second=len(b.keys() - a.keys()),
            )
        )
    return pairs


def design_of(pairs: Pairs, alpha: float = power.DEFAULT_ALPHA, target: float = power.DEFAULT_POWER) -> power.Design:
    """The design of a further comparison of runs like these: deviations and correlation as they were found here.

    Raises ValueError for fewer than two documents.
    """
    if len(pairs.doc_ids) < 2:
        raise ValueError(f"task {pairs.task}: a design needs two documents that both runs scored")
    deviations = statistics.stdev(pairs.first), statistics.stdev(pairs.second)
    correlation = statistics.correlation(pairs.first, pairs.second) if all(deviations) else 0.0
    return power.Design(*deviations, max(-1.0, min(1.0, correlation)), alpha, target)


def _compare(
    pairs: Pairs,
    clusters: Mapping[tuple[str, int], Hashable] | None,
    alpha: float,
    permutations: int,
    seed: int,
) -> MetricComparison:
    count = len(pairs.doc_ids)
    means = [math.fsum(scores) / count if count else None for scores in (pairs.first, pairs.second)]
    difference = None if means[0] is None or means[1] is None else means[0] - means[1]
    # A document that nobody put in a cluster is one of its own.
    ids = [clusters.get((pairs.task, doc_id), ("document", doc_id)) for doc_id in pairs.doc_ids] if clusters else None
    t = paired_t(pairs.first, pairs.second, clusters=ids)
    permutation = permutation_test(pairs.first, pairs.second, permutations=permutations, seed=seed)
    wins = sum(a > b for a, b in zip(pairs.first, pairs.second, strict=True))
    losses = sum(a < b for a, b in zip(pairs.first, pairs.second, strict=True))
    binary = mcnemar(wins, losses) if pairs.is_binary else None
    if ids is not None:
        p_value, method = (t.p_value, "paired_t_clustered") if t else (1.0, "")
    elif binary is not None:
        p_value, method = binary.p_value, binary.method
    else:
        p_value, method = (permutation.p_value, "permutation") if permutation else (1.0, "")
    return MetricComparison(
        pairs=pairs,
        mean_first=means[0],
        mean_second=means[1],
        difference=difference,
        t=t,
        permutation=permutation,
        mcnemar=binary,
        sign=sign_test(wins, losses),
        p_value=p_value,
        method=method,
        adjusted_p_value=p_value,
        verdict="not_enough_evidence",
        minimum_detectable_effect=_smallest_shown(pairs, t, alpha),
    )


def _smallest_shown(pairs: Pairs, t: PairedT | None, alpha: float) -> float | None:
    """From the standard error that was found, which clusters and unequal deviations are in already."""
    differences = [a - b for a, b in zip(pairs.first, pairs.second, strict=True)]
    # Equal ones differ by rounding, which is no deviation.
    if t is None or math.isclose(min(differences), max(differences), rel_tol=1e-9, abs_tol=1e-12):
        return None
    deviation = t.standard_error * math.sqrt(t.pairs)
    return power.minimum_detectable_effect(t.pairs, power.Design(deviation, 0.0, 0.0, alpha))


def _verdict(one: MetricComparison, p_value: float, alpha: float, higher_is_better: Mapping[str, bool]) -> Verdict:
    if p_value >= alpha or not one.difference:
        return "not_enough_evidence"
    first_is_higher = one.difference > 0
    return "first" if first_is_higher == higher_is_better.get(one.pairs.metric, True) else "second"


def _by_metric(
    samples: Sequence[StoredSample], metrics: Sequence[str] | None, score_key: str
) -> dict[tuple[str, str, str], dict[int, float]]:
    """Scores by document, by (task, filter, metric). Of several samples of a document the first counts."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for sample in samples:
        if sample.outcome != "ok":
            continue
        for metric in sample.scores:
            if metrics is not None and metric not in metrics:
                continue
            score = sample.score(metric, score_key)
            if score is not None:
                found.setdefault((sample.task, sample.filter, metric), {}).setdefault(sample.doc_id, score)
    return found


def check_documents(first: Sequence[StoredSample], second: Sequence[StoredSample]) -> None:
    """Raises EvaluationError DOCUMENTS_DIFFER where both know a document's hash, and the hashes differ."""
    known = {(sample.task, sample.doc_id): sample.doc_hash for sample in first if sample.doc_hash}
    differing = sorted(
        {
            (sample.task, sample.doc_id)
            for sample in second
            if sample.doc_hash and known.get((sample.task, sample.doc_id), sample.doc_hash) != sample.doc_hash
        }
    )
    if differing:
        task, doc_id = differing[0]
        raise EvaluationError(
            "DOCUMENTS_DIFFER",
            f"task {task}, document {doc_id}, and {len(differing) - 1} more: the runs answered other documents under "
            "the same number, so they cannot be compared; run both on the same version of the data",
        )


def _names(found: Mapping[tuple[str, str, str], object]) -> str:
    listed = sorted(f"{task}/{metric},{filter_name}" for task, filter_name, metric in found)
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "") if listed else "none"
