"""What must hold of every answer, whatever was asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from lmms_eval_grpc.server.principals import Role
from tests.fuzz.methods import Method

MAX_TRAILER_BYTES = 8 * 1024
DETAILS_KEY = "grpc-status-details-bin"

_TRACES = re.compile(r'Traceback \(|File "|site-packages|<[\w.]+ object at 0x|, line \d+, in ')


@dataclass(frozen=True, slots=True)
class Request:
    """One call as it was made."""

    method: Method
    messages: tuple[bytes, ...]
    """One, or those of a stream."""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout: float | None = None
    """Seconds, where the caller gave up early on purpose."""
    gives_up: bool = False
    """Whether the caller may cancel the call."""
    role: Role | None = None
    """Of the caller's credentials, NONE without valid ones; None: the server asks for none."""

    def says(self, text: str) -> bool:
        """Whether the caller itself sent ``text``."""
        wanted = text.encode()
        return any(wanted in message for message in self.messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    code: grpc.StatusCode
    details: str
    trailers: tuple[tuple[str, str | bytes], ...]


class Rules:
    """Finds what is wrong with an answer."""

    def __init__(self, secrets: Iterable[str], *, largest_request: int) -> None:
        """
        Args:
            secrets: paths of the server, and tokens, which no status may name unless the caller's request did.
            largest_request: bytes that the server takes.
        """
        self._secrets = tuple(secret for secret in secrets if len(secret) > 1)
        self._largest = largest_request

    def problems(self, request: Request, answer: Answer) -> list[str]:
        """In words; empty when all is well."""
        return [*self._code(request, answer), *self._texts(request, answer), *_trailers(answer)]

    def _code(self, request: Request, answer: Answer) -> Iterator[str]:
        allowed = request.method.codes(request.role)
        if request.timeout is not None:
            allowed |= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
        if request.gives_up:
            allowed.add(grpc.StatusCode.CANCELLED)
        sent = max(map(len, request.messages), default=0)
        if sent > self._largest or sum(len(key) + len(value) for key, value in request.metadata) > 4_096:
            allowed.add(grpc.StatusCode.RESOURCE_EXHAUSTED)
        if answer.code not in allowed:
            whom = "" if request.role is None else f" to {request.role.word}"
            yield f"{answer.code.name} is no answer of {request.method.name}{whom}: {answer.details[:300]}"

    def _texts(self, request: Request, answer: Answer) -> Iterator[str]:
        for text in (answer.details, *_texts_of(answer.trailers)):
            # The caller's own words may look like anything.
            if (found := _TRACES.search(text)) and not request.says(found[0]):
                yield f"a traceback in the status: {text[:300]}"
            for secret in self._secrets:
                if secret in text and not request.says(secret):
                    yield f"the server's {secret} in the status: {text[:300]}"


def _trailers(answer: Answer) -> Iterator[str]:
    size = sum(len(key) + len(value) for key, value in answer.trailers) + len(answer.details.encode())
    if size > MAX_TRAILER_BYTES:
        yield f"{size} bytes of trailers"


def _texts_of(trailers: Sequence[tuple[str, str | bytes]]) -> Iterator[str]:
    """Every text in the trailers, the packed details' included."""
    for key, value in trailers:
        if key != DETAILS_KEY or not isinstance(value, bytes):
            yield value if isinstance(value, str) else value.decode("utf-8", "replace")
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            yield value.decode("utf-8", "replace")
            continue
        yield status.message
        for packed in status.details:
            made = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
            packed.Unpack(made)
            yield from _strings(made)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Message):
        for field, item in value.ListFields():
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                for key, entry in item.items():
                    yield from (*_strings(key), *_strings(entry))
            elif field.is_repeated:
                for entry in item:
                    yield from _strings(entry)
            else:
                yield from _strings(item)
