"""What the records of a sample tell beside its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lmms_eval_grpc.engine.models.protocol import GenerationResponse
from lmms_eval_grpc.engine.run.answers import shown_text
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task


def describe_sample(
    task: Task, doc_id: int, responses: Sequence[GenerationResponse], prompt: str | None
) -> dict[str, Any]:
    """The fields of a sample's records that do not depend on its scores; empty where its document is broken.

    ``prompt`` is the request's text; None: it is read from the task, which decodes the document's media.
    """
    return {
        "task": task.name,
        "doc_id": doc_id,
        "prompt": prompt if prompt is not None else _or_empty(task.input_text, doc_id),
        "target": str(_or_empty(task.target, doc_id)),
        "responses": tuple(shown_text(response) for response in responses if response.error is None),
        "input_tokens": sum(response.input_tokens for response in responses),
        "output_tokens": sum(response.output_tokens for response in responses),
        "reasoning_tokens": sum(response.reasoning_tokens or 0 for response in responses),
        "doc_hash": _or_empty(task.doc_hash, doc_id),
        "repeats": task.repeats,
    }


def _or_empty(read: Callable[[int], Any], doc_id: int) -> Any:
    """What a record says of a document that may be the very thing that failed."""
    try:
        value = read(doc_id)
    except DocumentError:
        return ""
    return "" if value is None else value
