"""Span ids that can be told beforehand: a span is sent when it ends, and its children, which name it, long before."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

_TRACE_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class ChosenIds(RandomIdGenerator):
    """Random, unless an id was chosen. For one thread: spans are made on the event loop only."""

    def __init__(self) -> None:
        self._chosen: int | None = None

    @contextmanager
    def choose(self, span_id: int | None) -> Iterator[None]:
        """The span that is started meanwhile gets this id."""
        self._chosen = span_id
        try:
            yield
        finally:
            self._chosen = None

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self._chosen is None else self._chosen


def span_id_of(name: str) -> int:
    """An id for the span of a job, or of a part of one, that is the same after a restart."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") or 1


def read_trace_parent(text: str) -> SpanContext | None:
    """What a ``traceparent`` of this server's own making names; None for anything else."""
    found = _TRACE_PARENT.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def write_trace_parent(context: SpanContext) -> str:
    """``context`` as a ``traceparent``."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def inside(parent: SpanContext, span_id: int | None = None) -> Context:
    """Where a child is started: below ``parent``, or below the span of its trace that has ``span_id``."""
    if span_id is not None:
        parent = SpanContext(parent.trace_id, span_id, is_remote=True, trace_flags=parent.trace_flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())
