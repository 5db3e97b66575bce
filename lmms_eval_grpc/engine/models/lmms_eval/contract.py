"""lmms-eval's form of requests and answers.

A model of lmms-eval gets a list of ``Instance`` objects and returns a list of answers of the same length. An Instance
holds no document, only functions and a number: the model looks the document up in its ``task_dict`` and gives it to the
functions. Here the document is the request itself, so that the functions have nothing to do but to take it apart.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.data.media.images import load_image
from lmms_eval_grpc.engine.models.generation_arguments import read_stops, truncate
from lmms_eval_grpc.engine.models.protocol import GenerationResponse, LoglikelihoodRequest, Message, Request

TASK = f"lmms_eval_grpc_{uuid.uuid4().hex}"
"""The task's name that models see. Some keep answers by task and document number, in a file, for the next process;
those of another process would be other requests' answers, so each process has a name of its own."""
SPLIT = "test"

FAILURE_MARKS = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED]")
"""What lmms-eval's backends return in place of an answer begins with one of these."""


@dataclass(frozen=True, slots=True)
class Document:
    """A request as what lmms-eval's functions take for a document."""

    number: int
    request: Request
    messages: list[Message]
    """With every picture as a PIL image."""

    @classmethod
    def of(cls, number: int, request: Request) -> Document:
        """Raises MediaError for a picture that cannot be read."""
        return cls(number, request, [_with_pictures(message) for message in request.messages])


def doc_to_messages(document: Document, *_: Any, **__: Any) -> list[Message]:
    # The backends write into what they get.
    return [{**message, "content": [dict(item) for item in message["content"]]} for message in document.messages]


def doc_to_visual(document: Document) -> list[Any]:
    """Pictures as PIL images, films and sounds as the task gave them: paths, or decoded sound."""
    items = [item for message in document.messages for item in message["content"]]
    return [item["url"] for item in items if item["type"] != "text"]


def prompt(messages: Sequence[Message]) -> str:
    """The text that a model gets that takes no messages: everything said, in order."""
    texts = ["\n".join(item["text"] for item in message["content"] if item["type"] == "text") for message in messages]
    return "\n\n".join(texts)


def arguments(document: Document, *, simple: bool) -> tuple[Any, ...]:
    """The ``arguments`` of the document's Instance, for a model that takes messages, or one that does not."""
    request, context = document.request, prompt(document.messages)
    place = (document.number, TASK, SPLIT)
    if isinstance(request, LoglikelihoodRequest):
        return (context, request.continuation, doc_to_visual, *place)
    generation = copy.deepcopy(dict(request.generation))
    return (context, generation, doc_to_visual, *place) if simple else (context, doc_to_messages, generation, *place)


def metadata(document: Document) -> dict[str, Any]:
    return {"task": TASK, "doc_id": document.number, "repeats": 1, "split": SPLIT}


def read_answer(document: Document, answer: Any) -> GenerationResponse:
    """What the model said to the document's request; an answer of no form that lmms-eval knows is an error."""
    if isinstance(document.request, LoglikelihoodRequest):
        return _read_likelihood(answer)
    text, counts = _text_and_counts(answer)
    if text is None:
        return GenerationResponse(error=f"lmms-eval's backend returned {answer!r:.200} in place of a text")
    if text.startswith(FAILURE_MARKS):
        return GenerationResponse(error=text)
    return GenerationResponse(
        truncate(text, read_stops(document.request.generation.get("until"))),
        input_tokens=_count(counts, "input_tokens") or 0,
        output_tokens=_count(counts, "output_tokens") or 0,
        reasoning_tokens=_count(counts, "reasoning_tokens"),
    )


def _read_likelihood(answer: Any) -> GenerationResponse:
    try:
        value, greedy = answer
        return GenerationResponse(log_probability=float(value), is_greedy=bool(greedy))
    except (TypeError, ValueError):
        return GenerationResponse(error=f"lmms-eval's backend returned {answer!r:.200} in place of a likelihood")


def _text_and_counts(answer: Any) -> tuple[str | None, Any]:
    if isinstance(answer, str):
        return answer, None
    if isinstance(getattr(answer, "text", None), str):
        return answer.text, getattr(answer, "token_counts", None)
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], str):
        if len(answer) == 1:
            return answer[0], None
        if len(answer) == 2 and not isinstance(answer[1], str):
            return answer[0], answer[1]
    return None, None


def _count(counts: Any, name: str) -> int | None:
    value = counts.get(name) if isinstance(counts, Mapping) else getattr(counts, name, None)
    return value if isinstance(value, int) else None


def _with_pictures(message: Message) -> Message:
    return {**message, "content": [_with_picture(item) for item in message["content"]]}


def _with_picture(item: Mapping[str, Any]) -> Mapping[str, Any]:
    source = item.get("url")
    # A picture that is one already goes as it is: each backend has its own way with modes and sizes.
    if item["type"] != "image" or hasattr(source, "getpixel"):
        return item
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return item
    return {**item, "url": load_image(source)}
