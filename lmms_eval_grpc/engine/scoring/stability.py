"""How stable a model's answers are when it is asked the same several times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from lmms_eval_grpc.engine.api import MetricScore
from lmms_eval_grpc.engine.stats import intervals


def stability_scores(
    metric: str, filter_name: str, documents: Sequence[Sequence[float]], higher_is_better: bool | None
) -> Iterator[MetricScore]:
    """Four scores from ``documents``, each the scores of one document's repeats; none when there are no documents.

    ``<metric>_expected_accuracy``: the mean over all repeats. ``_consensus_accuracy``: the share of documents right
    in more than half of them. ``_internal_variance``: the mean over documents of the variance (n - 1) within one.
    ``_consistency_rate``: the share of documents whose repeats all score alike. Intervals take a document as one
    observation, because its repeats are not independent.
    """
    if not documents:
        return
    per_document: dict[str, tuple[list[float], bool | None]] = {
        "expected_accuracy": ([math.fsum(scores) / len(scores) for scores in documents], higher_is_better),
        "consensus_accuracy": ([float(sum(scores) > len(scores) / 2) for scores in documents], higher_is_better),
        "internal_variance": ([statistics.variance(scores) for scores in documents], False),
        "consistency_rate": ([float(len(set(scores)) == 1) for scores in documents], True),
    }
    for name, (values, better) in per_document.items():
        interval = intervals.t_interval(values)
        yield MetricScore(
            name=f"{metric}_{name}",
            filter=filter_name,
            value=math.fsum(values) / len(values),
            standard_error=intervals.mean_standard_error(values),
            confidence_lower=interval.lower if interval else None,
            confidence_upper=interval.upper if interval else None,
            confidence_method="t" if interval else "",
            higher_is_better=better,
            sample_count=len(values),
        )
