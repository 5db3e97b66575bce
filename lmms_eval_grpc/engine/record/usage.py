"""Tokens spent, and what they bought, from sample records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmms_eval_grpc.engine.judge.usage import USAGE
from lmms_eval_grpc.engine.models.protocol import GenerationResponse
from lmms_eval_grpc.engine.record.samples import SampleRecord

_SCORE_NAMES = ("score", "acc", "accuracy", "exact_match")


@dataclass(slots=True)
class TaskUsage:
    """Counts over one task's documents. A document with several filters counts once, by its first record."""

    documents: int = 0
    documents_with_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the output's."""
    responses: int = 0
    correct: float = 0.0
    """Sum of the positive scores."""
    _seen: set[int] = field(default_factory=set)

    def add(self, record: SampleRecord, score_key: str) -> None:
        if record.doc_id in self._seen:
            return
        self._seen.add(record.doc_id)
        self.documents += 1
        self.documents_with_tokens += bool(record.input_tokens or record.output_tokens)
        self.input_tokens += record.input_tokens
        self.output_tokens += record.output_tokens
        self.reasoning_tokens += record.reasoning_tokens
        self.responses += len(record.responses)
        self.correct += _positive_score(record.scores, score_key)

    def add_responses(self, responses: Sequence[GenerationResponse]) -> None:
        """Counts a document by what the model said, whatever becomes of its score."""
        self.documents += 1
        for response in responses:
            self.input_tokens += response.input_tokens
            self.output_tokens += response.output_tokens
            self.reasoning_tokens += response.reasoning_tokens or 0
            self.responses += response.error is None

    def tokens(self) -> dict[str, int]:
        return _tokens(self.input_tokens, self.output_tokens, self.responses, self.reasoning_tokens)

    def efficiency(self) -> dict[str, Any]:
        return {
            "docs": self.documents,
            "docs_with_token_counts": self.documents_with_tokens,
            "total_input_tokens": self.input_tokens,
            "total_output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "total_correct_score": self.correct,
            "avg_output_tokens_per_sample": _ratio(self.output_tokens, self.documents_with_tokens),
            "tokens_per_correct_answer": _ratio(self.output_tokens, self.correct),
        }


def total(usages: Iterable[TaskUsage]) -> TaskUsage:
    """The sum over tasks."""
    summed = TaskUsage()
    for usage in usages:
        summed.documents += usage.documents
        summed.documents_with_tokens += usage.documents_with_tokens
        summed.input_tokens += usage.input_tokens
        summed.output_tokens += usage.output_tokens
        summed.reasoning_tokens += usage.reasoning_tokens
        summed.responses += usage.responses
        summed.correct += usage.correct
    return summed


@dataclass(frozen=True, slots=True)
class CachedUsage:
    """What a response cache gave instead of the model."""

    samples: int
    """Samples all of whose responses it had."""
    responses: int
    input_tokens: int
    output_tokens: int
    """Of all these responses."""


def by_source(usages: Iterable[TaskUsage], cached: CachedUsage | None = None) -> dict[str, dict[str, int]]:
    """Tokens of the evaluated model, of the response cache where there was one, and of judges where any was asked."""
    whole = total(usages)
    if cached is not None:
        whole.input_tokens -= cached.input_tokens
        whole.output_tokens -= cached.output_tokens
        whole.responses -= cached.responses
    sources = {"model": whole.tokens()}
    if cached is not None:
        sources["response_cache"] = {
            **_tokens(cached.input_tokens, cached.output_tokens, 0),
            "n_responses": cached.responses,
        }
    judged = USAGE.by_model().values()
    if judged:
        sources["judge"] = _tokens(
            sum(one.input_tokens for one in judged),
            sum(one.output_tokens for one in judged),
            sum(one.requests for one in judged),
        )
    return sources


def judges() -> dict[str, dict[str, int]]:
    """The models that judged in this process, as their servers name them, and how many of their answers were used."""
    return {
        model: {"requests": one.requests, "from_cache": one.cached} for model, one in sorted(USAGE.by_model().items())
    }


def _tokens(given: int, made: int, calls: int, reasoning: int = 0) -> dict[str, int]:
    """lmms-eval's keys. Tokens of reasoning are among the output's; only some servers tell them apart."""
    return {
        "input_tokens": given,
        "output_tokens": made,
        "reasoning_tokens": reasoning,
        "total_tokens": given + made,
        "n_api_calls": calls,
    }


def _positive_score(scores: Mapping[str, Any], score_key: str) -> float:
    names = [score_key, *_SCORE_NAMES, *(name for name in scores if name.endswith("_score"))]
    for name in names:
        value = scores.get(name)
        if isinstance(value, Mapping):
            value = value.get(score_key)
        if isinstance(value, int | float) and math.isfinite(value):
            return max(float(value), 0.0)
    return 0.0


def _ratio(amount: float, count: float) -> float | None:
    return amount / count if count else None
