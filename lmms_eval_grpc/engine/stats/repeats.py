"""Several responses to each document: how good they are on average, and how much they agree.

``documents`` is everywhere one sequence of scores per document, one score per response. A document is one observation
(a cluster), because its responses are not independent of each other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lmms_eval_grpc.engine.stats import intervals
from lmms_eval_grpc.engine.stats.intervals import CONFIDENCE, Interval

Documents = Sequence[Sequence[float]]


def expected_accuracy(documents: Documents) -> float | None:
    """The mean over all responses of all documents. None where there is no response."""
    scores = _flat(documents)
    return math.fsum(scores) / len(scores) if scores else None


def expected_accuracy_error(documents: Documents) -> float | None:
    """Standard error of :func:`expected_accuracy`, a document taken as a cluster. None for fewer than two documents."""
    return intervals.clustered_standard_error(_flat(documents), _owners(documents))


def expected_accuracy_interval(documents: Documents, confidence: float = CONFIDENCE) -> Interval | None:
    """Interval of :func:`expected_accuracy`, with documents - 1 degrees of freedom."""
    return intervals.clustered_t_interval(_flat(documents), _owners(documents), confidence)


def consensus_accuracy(documents: Documents) -> float | None:
    """The share of documents right in more than half of their responses. None where there is no document."""
    answered = [scores for scores in documents if scores]
    return sum(map(is_consensus, answered)) / len(answered) if answered else None


def is_consensus(scores: Sequence[float]) -> bool:
    """Whether more than half of one document's responses are right; half is not enough."""
    return math.fsum(scores) > len(scores) / 2


def internal_variance(documents: Documents) -> float | None:
    """Mean over documents of the variance (k - 1) of their responses' scores; documents with one response are left out.

    None where no document has two.
    """
    variances = [statistics.variance(scores) for scores in documents if len(scores) > 1]
    return math.fsum(variances) / len(variances) if variances else None


def consistency_rate(documents: Documents) -> float | None:
    """The share of documents whose responses all score alike. None where there is no document."""
    answered = [scores for scores in documents if scores]
    return sum(len(set(scores)) == 1 for scores in answered) / len(answered) if answered else None


def pass_at_k(responses: int, correct: int, k: int) -> float | None:
    """The chance that at least one of ``k`` responses is right, from ``correct`` right ones among ``responses``.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) of Chen et al. 2021, "Evaluating Large Language Models Trained on
    Code", https://arxiv.org/abs/2107.03374, as a product, which never overflows. None when fewer than ``k`` responses
    were given. Raises ValueError for counts that cannot be.
    """
    if k < 1 or not 0 <= correct <= responses:
        raise ValueError(f"pass@k needs 0 <= correct <= responses and k >= 1, not {correct}, {responses} and {k}")
    if responses < k:
        return None
    if responses - correct < k:
        return 1.0
    return 1.0 - math.prod(1 - k / total for total in range(responses - correct + 1, responses + 1))


def pass_at_k_per_document(documents: Documents, k: int) -> list[float] | None:
    """:func:`pass_at_k` of every document, a score above 1/2 being right. None when one has fewer than ``k``."""
    values = [pass_at_k(len(scores), sum(score > 0.5 for score in scores), k) for scores in documents]
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _flat(documents: Documents) -> list[float]:
    return [score for scores in documents for score in scores]


def _owners(documents: Documents) -> list[int]:
    return [number for number, scores in enumerate(documents) for _ in scores]
