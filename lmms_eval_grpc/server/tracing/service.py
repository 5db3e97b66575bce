"""One server's traces as a whole: a tracer provider of its own, so that a program may have another beside it."""

from __future__ import annotations

import asyncio
import logging
import threading

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from lmms_eval_grpc import __version__
from lmms_eval_grpc.server.tracing.calls import TraceCalls
from lmms_eval_grpc.server.tracing.ids import ChosenIds
from lmms_eval_grpc.server.tracing.jobs import TraceJobs

logger = logging.getLogger(__name__)

SERVICE = "lmms-eval-grpc"
LAST_EXPORT = 3.0
"""Seconds that the last spans get to be sent when the server stops."""


class Tracing:
    """Makes spans, and sends them from a thread of their own; a collector that is away delays nobody."""

    def __init__(self, endpoint: str | None) -> None:
        """``endpoint`` is the full URL; None: what OpenTelemetry's variables say."""
        ids = ChosenIds()
        own = Resource({SERVICE_NAME: SERVICE, SERVICE_VERSION: __version__})
        resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
        self._exporter = OTLPSpanExporter(endpoint)
        self._provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        tracer = self._provider.get_tracer("lmms_eval_grpc", __version__)
        self.calls = TraceCalls(tracer)
        self.jobs = TraceJobs(tracer, ids)

    async def close(self) -> None:
        """Sends what is left, but does not insist."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(sent.set)
            except RuntimeError:
                pass  # Too late: the loop is closed.

        # Not one of the loop's own threads: those are waited for, however long they take.
        threading.Thread(target=shut_down, name="last-spans", daemon=True).start()
        try:
            await asyncio.wait_for(sent.wait(), LAST_EXPORT)
        except TimeoutError:
            logger.warning("the last spans could not be sent to the collector")
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
