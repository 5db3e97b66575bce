"""Sample records, as the engine wrote them, as public messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval_grpc.server.convert_values import clean
from lmms_eval_grpc.v1 import job_pb2

MAX_RECORD_BYTES = 1_000_000
"""A record is cut to this: a message holds at least one, and no message is to be larger than 1 MiB."""
_MARK_BYTES = 64
"""Room for what stands in place of a text's end."""

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
    """``message`` with its longest texts cut, each saying so; then without what there are too many of."""
    texts = [getattr(message, name) for name in _TEXT_FIELDS]
    sizes = [len(text.encode()) for text in (*texts, *message.responses, *message.filtered_responses)]
    longest = _level(sizes, sum(sizes) - (message.ByteSize() - MAX_RECORD_BYTES))
    for name in _TEXT_FIELDS:
        setattr(message, name, _cut(getattr(message, name), longest))
    for values in (message.responses, message.filtered_responses):
        values[:] = [_cut(value, longest) for value in values]
    for values in (message.responses, message.filtered_responses):
        if message.ByteSize() > MAX_RECORD_BYTES:
            values[:] = [f"… ({len(values)} texts, too many to send)"]
    if message.ByteSize() > MAX_RECORD_BYTES:
        message.error = f"{message.error} ({len(message.scores)} scores, too many to send)".strip()
        message.ClearField("scores")
    return message


def _level(sizes: Sequence[int], room: int) -> int:
    """The largest size to which all that are larger can be cut, marks included, so that together they take ``room``."""
    low, high = 0, max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(size if size <= middle else middle + _MARK_BYTES for size in sizes) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(text: str, most: int) -> str:
    """``text`` if it takes at most ``most`` bytes; otherwise its beginning, which does, and how much is left out."""
    encoded = text[: most + 1].encode()
    if len(encoded) <= most:
        return text
    kept = encoded[:most].decode(errors="ignore")
    return f"{kept} … ({len(text) - len(kept)} more characters)"
