"""``grpc.health.v1``: ``""`` says that the process is alive, as does the full name of the service for administrators;
that of the service for evaluations says that new jobs are taken: not while the server drains, nor while its store
cannot be written.

The stock servicer's Watch keeps a server from stopping, and its List does not work.
"""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lmms_eval_grpc.scheduler.signal import Signal

ALIVE = ""
READY = "lmms_eval_grpc.v1.EvaluationService"
ADMIN = "lmms_eval_grpc.v1.AdminService"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Context = grpc.aio.ServicerContext[Any, Any]


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Alive from its making on, ready once told so, and neither once closed."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {ALIVE: SERVING, ADMIN: SERVING, READY: NOT_SERVING}
        self._signal = Signal()
        self._closed = False

    def set_ready(self, ready: bool) -> None:
        """Tells everybody who watches whether the service takes new jobs."""
        self._statuses[READY] = SERVING if ready else NOT_SERVING
        self._signal.notify()

    def close(self) -> None:
        """Tells everybody who watches that it is over, and ends their streams."""
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._closed = True
        self._signal.notify()

    async def Check(self, request: Any, context: Context) -> Any:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:200]!r} here")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Context) -> Any:
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Context) -> None:
        told = None
        while True:
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status  # And look again: it may have changed during the write.
            elif self._closed:
                return
            else:
                await self._signal.wait(None)
