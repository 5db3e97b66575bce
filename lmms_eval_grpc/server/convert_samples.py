"""Sample records, as the engine wrote them, as public messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval_grpc.server.convert_values import clean
from lmms_eval_grpc.v1 import job_pb2

MAX_RECORD_BYTES = 3_500_000
"""A record is cut to this, because clients take messages of 4 MiB at most."""

_OUTCOMES = {
    "ok": job_pb2.SAMPLE_OUTCOME_OK,
    "model_error": job_pb2.SAMPLE_OUTCOME_MODEL_ERROR,
    "scoring_error": job_pb2.SAMPLE_OUTCOME_SCORING_ERROR,
    "judge_error": job_pb2.SAMPLE_OUTCOME_JUDGE_ERROR,
    "budget_exceeded": job_pb2.SAMPLE_OUTCOME_BUDGET_EXCEEDED,
}

_TEXT_FIELDS = ("prompt", "target", "error", "scores_json")


def write_sample(record: Mapping[str, Any]) -> job_pb2.SampleRecord:
    """One record of ``samples.jsonl`` (see :mod:`lmms_eval_grpc.engine.record.samples`)."""
    scores = record.get("scores") or {}
    plain = {clean(name): float(value) for name, value in scores.items() if isinstance(value, int | float)}
    message = job_pb2.SampleRecord(
        task=clean(record.get("task", "")),
        doc_id=record.get("doc_id", 0),
        filter=clean(record.get("filter", "")),
        outcome=_OUTCOMES.get(record.get("outcome", ""), job_pb2.SAMPLE_OUTCOME_UNSPECIFIED),
        prompt=clean(record.get("prompt", "")),
        target=clean(record.get("target", "")),
        responses=_texts(record.get("responses", ())),
        filtered_responses=_texts(record.get("filtered_responses", ())),
        scores=plain,
        scores_json="" if len(plain) == len(scores) else json.dumps(scores),
        input_tokens=record.get("input_tokens", 0),
        output_tokens=record.get("output_tokens", 0),
        error=clean(record.get("error", "")),
        doc_hash=record.get("doc_hash", ""),
    )
    return message if message.ByteSize() <= MAX_RECORD_BYTES else _shortened(message)


def _texts(values: Sequence[Any]) -> list[str]:
    return [clean(value if isinstance(value, str) else json.dumps(value)) for value in values]


def _shortened(message: job_pb2.SampleRecord) -> job_pb2.SampleRecord:
    """``message`` with its longest texts cut, each saying so."""
    longest = MAX_RECORD_BYTES // (4 * (len(_TEXT_FIELDS) + len(message.responses) + len(message.filtered_responses)))
    for name in _TEXT_FIELDS:
        setattr(message, name, _cut(getattr(message, name), longest))
    for values in (message.responses, message.filtered_responses):
        values[:] = [_cut(value, longest) for value in values]
    return message


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} … ({len(text) - length} more characters)"
