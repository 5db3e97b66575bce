"""The server under load, as it is started in production but for what runs the jobs, and a bare echo beside it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import psutil

from benchmarks.load_generator.executor import PlayedExecutor
from lmms_eval_grpc.engine.allocator import share_heaps
from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.app import EvaluationServer
from lmms_eval_grpc.server.interpreter import tuned_interpreter
from lmms_eval_grpc.server.launch import set_up_logging
from lmms_eval_grpc.v1.evaluation_service_pb2 import EvaluateRequest

ECHO = "/benchmark.Echo/Echo"
"""The echo's method: it answers an EvaluateRequest with the same message."""
_SAMPLE_EVERY = 0.005


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server's process has used since it was last asked."""

    wall_seconds: float
    cpu_seconds: float
    worst_stall: float
    """Seconds for which the event loop did not get to a timer that was due."""
    rss_bytes: int
    """Now, after a garbage collection."""
    descriptors: int
    unread_bytes: int
    """Bytes that wait in the sockets of this machine's loopback for programs that do not read."""


class LoadedServer:
    """The object of the server's process."""

    def __init__(self, state_dir: Path, slots: int) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        set_up_logging("info")
        self._executor = PlayedExecutor(slots)
        args = ServerArgs(
            port=0,
            state_dir=state_dir,
            max_queued_jobs=100_000,
            max_completed_jobs=100_000,
            max_watches=20_000,
            max_watches_per_client=20_000,
            shutdown_grace=0.5,
        )
        share_heaps()
        self._server = EvaluationServer(args, executor=self._executor)
        self._echo = grpc.aio.server()
        self._stall = 0.0
        self._since = (time.monotonic(), time.process_time())
        self._sampling: asyncio.Task[None] | None = None
        self._tuned = contextlib.ExitStack()

    async def start(self) -> tuple[str, str]:
        """Returns the addresses of the server and of the echo."""
        await self._server.start()
        handler = grpc.unary_unary_rpc_method_handler(
            _echo,
            request_deserializer=EvaluateRequest.FromString,
            response_serializer=EvaluateRequest.SerializeToString,
        )
        _, service, method = ECHO.split("/")
        self._echo.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = self._echo.add_insecure_port("127.0.0.1:0")
        await self._echo.start()
        self._tuned.enter_context(tuned_interpreter())
        self._sampling = asyncio.create_task(self._sample())
        return self._server.address, f"127.0.0.1:{port}"

    async def report(self, job_id: str) -> None:
        """Has a running job's worker report progress now."""
        (await self._executor.execution(job_id)).report()

    async def usage(self) -> Usage:
        """See :class:`Usage`."""
        gc.collect()
        wall, cpu = time.monotonic(), time.process_time()
        process = psutil.Process()
        used = Usage(
            wall_seconds=wall - self._since[0],
            cpu_seconds=cpu - self._since[1],
            worst_stall=self._stall,
            rss_bytes=process.memory_info().rss,
            descriptors=process.num_fds(),
            unread_bytes=_unread_bytes(int(self._server.address.rpartition(":")[2])),
        )
        # The collection is this program's doing: it counts for nothing.
        self._since = (time.monotonic(), time.process_time())
        await asyncio.sleep(2 * _SAMPLE_EVERY)
        self._stall = 0.0
        return used

    async def close(self) -> None:
        """Stops both."""
        if self._sampling is not None:
            self._sampling.cancel()
        await self._echo.stop(0)
        self._tuned.close()
        await self._server.stop(0)

    async def _sample(self) -> None:
        while True:
            due = time.monotonic() + _SAMPLE_EVERY
            await asyncio.sleep(_SAMPLE_EVERY)
            self._stall = max(self._stall, time.monotonic() - due)


async def _echo(request: EvaluateRequest, context: object) -> EvaluateRequest:
    return request


def _unread_bytes(port: int) -> int:
    """In the sending and receiving queues of all connections of a port of this machine."""
    lines: list[str] = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lines += Path("/proc/net", table).read_text().splitlines()[1:]
    total = 0
    for line in lines:
        _, local, remote, _, queues, *_ = line.split()
        if f"{port:04X}" in (local.rpartition(":")[2], remote.rpartition(":")[2]):
            sending, receiving = queues.split(":")
            total += int(sending, 16) + int(receiving, 16)
    return total
