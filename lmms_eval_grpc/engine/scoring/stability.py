"""How stable a model's answers are when it is asked the same several times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from lmms_eval_grpc.engine.api import MetricScore
from lmms_eval_grpc.engine.stats import intervals, repeats


def stability_scores(
    metric: str, filter_name: str, documents: Sequence[Sequence[float]], higher_is_better: bool | None
) -> Iterator[MetricScore]:
    """Scores from ``documents``, each the scores of one document's repeats; none when there are no documents.

    ``<metric>_expected_accuracy``: the mean over all repeats. ``_consensus_accuracy``: the share of documents right
    in more than half of them. ``_internal_variance``: the mean over documents of the variance (n - 1) within one.
    ``_consistency_rate``: the share of documents whose repeats all score alike. Where all scores are 0 or 1, also
    ``_pass@k`` for 2, 4, 8, … and for all repeats. Intervals take a document as one observation, because its repeats
    are not independent.
    """
    if not documents:
        return
    per_document: dict[str, tuple[list[float], bool | None]] = {
        "expected_accuracy": ([math.fsum(scores) / len(scores) for scores in documents], higher_is_better),
        "consensus_accuracy": ([float(repeats.is_consensus(scores)) for scores in documents], higher_is_better),
        "internal_variance": ([statistics.variance(scores) for scores in documents], False),
        "consistency_rate": ([float(len(set(scores)) == 1) for scores in documents], True),
    }
    for k in _sizes(documents):
        values = repeats.pass_at_k_per_document(documents, k)
        if values is not None:
            per_document[f"pass@{k}"] = (values, higher_is_better)
    for name, (values, better) in per_document.items():
        interval, error = intervals.t_interval(values), intervals.mean_standard_error(values)
        yield MetricScore(
            name=f"{metric}_{name}",
            filter=filter_name,
            value=math.fsum(values) / len(values),
            standard_error=error,
            confidence_lower=interval.lower if interval else None,
            confidence_upper=interval.upper if interval else None,
            confidence_method="t" if interval else "",
            higher_is_better=better,
            sample_count=len(values),
            legacy_errors={} if error is None else {"stderr": error},
        )


def _sizes(documents: Sequence[Sequence[float]]) -> list[int]:
    """The ``k`` of pass@k: powers of two and the number of repeats. None unless every score is right or wrong."""
    if any(score not in (0, 1) for scores in documents for score in scores):
        return []
    most = min(len(scores) for scores in documents)
    powers = [2**exponent for exponent in range(1, most.bit_length()) if 2**exponent < most]
    return [*powers, most]
