"""Which requests share a batch: equal generation arguments, alike in length, none held longer than needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.huggingface.generation import generation_key
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationResponse, Request

R = TypeVar("R", bound=Request)

WINDOW_REQUESTS = 512
"""Requests that are looked at together, at most; sorting needs many, memory and the wait for the first batch few."""
WINDOW_PIXELS = 128 * 1024 * 1024
"""Decoded pixels of a window's images, at most (three bytes each)."""


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request with its prompt rendered and its images decoded."""

    index: int
    prompt: str
    images: tuple[Image.Image, ...]
    generation: Mapping[str, Any]
    key: str
    cost: float
    """Roughly its tokens; only for sorting."""
    continuation: tuple[int, ...] = ()
    """Tokens whose likelihood is asked for; empty: an answer is to be generated."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that go through the model together, and the tensors made of them."""

    requests: Sequence[PreparedRequest]
    inputs: Any


@dataclass(frozen=True, slots=True)
class Prepared:
    """One step of preparation: a batch, requests that turned out to be broken, or both."""

    batch: Batch | None = None
    broken: list[Answer] = field(default_factory=list)


def describe_failure(error: BaseException) -> str:
    """One line for a request's ``error``."""
    return f"{type(error).__name__}: {error}".strip()


def broken(index: int, error: BaseException) -> Answer:
    return Answer(index, GenerationResponse(error=describe_failure(error)))


def share_key(generation: Mapping[str, Any] | None, has_images: bool) -> str:
    """Requests with different keys never share a batch. ``generation`` is None where a likelihood is asked for."""
    what = "likelihood" if generation is None else generation_key(generation)
    return f"{'images' if has_images else 'text'} {what}"


def plan_batches(
    requests: Sequence[R],
    *,
    prepare: Callable[[int, R], PreparedRequest],
    encode: Callable[[Sequence[PreparedRequest]], Any],
    choose_size: Callable[[PreparedRequest], int],
) -> Iterator[Prepared]:
    """Goes through ``requests`` once, in windows; longest first within each, so that memory trouble shows early.

    ``prepare`` decodes one request, ``encode`` makes a batch's tensors, ``choose_size`` says how many requests like
    this one make a batch. A request that cannot be fetched, prepared or encoded becomes a ``broken`` answer and takes
    nobody with it; an :class:`EvaluationError` other than a document's own ends everything.
    """
    window: list[PreparedRequest] = []
    pixels = 0
    room = 64  # the first window is small, so that the model has something to do soon
    for index in range(len(requests)):
        try:
            window.append(prepare(index, requests[index]))
            pixels += sum_pixels(window[-1:])
        except Exception as error:
            if isinstance(error, EvaluationError) and error.reason != "DOCUMENT_FAILED":
                raise
            yield Prepared(broken=[broken(index, error)])
        crowded = pixels >= WINDOW_PIXELS
        if len(window) >= room or crowded:
            window = yield from _cut_batches(window, encode, choose_size, keep_rest=not crowded)
            pixels = sum_pixels(window)
            room = min(WINDOW_REQUESTS, 2 * room)
    yield from _cut_batches(window, encode, choose_size, keep_rest=False)


def sum_pixels(window: Sequence[PreparedRequest]) -> int:
    return sum(image.width * image.height for request in window for image in request.images)


def _cut_batches(
    window: Sequence[PreparedRequest],
    encode: Callable[[Sequence[PreparedRequest]], Any],
    choose_size: Callable[[PreparedRequest], int],
    *,
    keep_rest: bool,
) -> Generator[Prepared, None, list[PreparedRequest]]:
    """Yields the window's full batches and returns what is left over, which is nothing unless ``keep_rest``."""
    groups: dict[str, list[PreparedRequest]] = {}
    for request in sorted(window, key=lambda request: request.cost, reverse=True):
        groups.setdefault(request.key, []).append(request)
    rest: list[PreparedRequest] = []
    for group in groups.values():
        while group:
            size = choose_size(group[0])
            if keep_rest and len(group) < size:
                rest += group
                break
            chunk, group = group[:size], group[size:]
            yield encode_or_isolate(chunk, encode)
    return rest


def encode_or_isolate(chunk: Sequence[PreparedRequest], encode: Callable[[Sequence[PreparedRequest]], Any]) -> Prepared:
    """Encodes the chunk; if that fails, finds those to blame by encoding each alone and leaves them out."""
    try:
        return Prepared(Batch(chunk, encode(chunk)))
    except Exception as error:
        if len(chunk) == 1:
            return Prepared(broken=[broken(chunk[0].index, error)])
    sound: list[PreparedRequest] = []
    answers: list[Answer] = []
    for request in chunk:
        try:
            encode([request])
            sound.append(request)
        except Exception as error:
            answers.append(broken(request.index, error))
    if len(sound) == len(chunk):  # each is fine alone: the fault is in the combination
        return Prepared(Batch(chunk, encode(chunk)))
    return Prepared(Batch(sound, encode(sound)) if sound else None, answers)
