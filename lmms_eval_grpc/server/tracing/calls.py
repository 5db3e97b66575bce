"""A span per call, below the caller's span where the call names one (W3C ``traceparent``)."""

from __future__ import annotations

import grpc
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lmms_eval_grpc.jobs import context as task_context
from lmms_eval_grpc.server.observe import Call
from lmms_eval_grpc.server.tracing.ids import write_trace_parent

_OWN_FAULT = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""Codes that stand for an error of the server, as OpenTelemetry's conventions have it."""
_KEYS = ("traceparent", "tracestate")


class TraceCalls:
    """Follows calls, but for health and reflection, which come every few seconds and tell nothing."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()
        self._spans: dict[int, Span] = {}
        """By the identity of the call."""

    def begins(self, call: Call) -> None:
        if not call.of_this_service:
            return
        carrier = {key: value for key, value in call.metadata if key in _KEYS and isinstance(value, str)}
        service, _, method = call.method.rpartition("/")
        span = self._tracer.start_span(
            call.method,
            self._propagator.extract(carrier, Context()),
            SpanKind.SERVER,
            {
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "network.peer.address": call.peer,
                "lmms_eval.request_id": call.request_id,
            },
        )
        self._spans[id(call)] = span
        # A job that this call submits keeps it.
        task_context.trace_parent.set(write_trace_parent(span.get_span_context()))

    def ends(self, call: Call) -> None:
        span = self._spans.pop(id(call), None)
        if span is None:
            return
        code = grpc.StatusCode[call.code].value[0] if call.code in grpc.StatusCode.__members__ else call.code
        span.set_attribute("rpc.grpc.status_code", code)
        span.set_attribute("enduser.id", call.principal)
        if call.job_id:
            span.set_attribute("lmms_eval.job_id", call.job_id)
        if call.reason:
            span.set_attribute("error.type", call.reason)
        if call.code in _OWN_FAULT:
            span.set_status(Status(StatusCode.ERROR, call.reason or call.code))
        span.end()

    def unknown(self) -> None:
        pass
