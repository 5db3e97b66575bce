"""The caller's place in a distributed trace, for the server to go on from."""

from __future__ import annotations

import sys

Metadata = tuple[tuple[str, str], ...]


def trace_metadata() -> Metadata:
    """What a call carries along when a span of OpenTelemetry is active here: W3C's ``traceparent`` and ``tracestate``.

    Empty otherwise. OpenTelemetry is never imported for this: where it is not loaded yet, no span can be active.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
