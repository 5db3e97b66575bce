"""``lmms_eval.api.metrics``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval_grpc.engine.scoring import metrics
from lmms_eval_grpc.engine.scoring.aggregations import (
    bits_per_byte,
    matthews_corrcoef,
    mean,
    median,
    perplexity,
    weighted_perplexity,
)
from lmms_eval_grpc.engine.scoring.metrics import exact_match, levenshtein_distance
from lmms_eval_grpc.engine.tasks import shims

__all__ = [
    "anls",
    "bits_per_byte",
    "exact_match",
    "levenshtein_distance",
    "matthews_corrcoef",
    "mean",
    "median",
    "perplexity",
    "weighted_perplexity",
]


def anls(references: Sequence[Any], predictions: Sequence[Any], thresh_hold: float = 0.5) -> dict[str, float]:
    """In a mapping, as lmms-eval's own returns it."""
    return {"anls": metrics.anls(references, predictions, thresh_hold)}


def __getattr__(name: str) -> Any:
    return shims.real_attribute("lmms_eval.api.metrics", name)
