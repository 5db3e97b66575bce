"""The process beside the server that is the cluster's client: ``python -m lmms_eval_grpc.executors.ray.driver``.

It alone imports Ray. Ray ends a process that has lost its cluster's head, brings threads and a gRPC of its own, and can
be initialised once: in the server each of these would be an outage. When the server's end of the socket closes, however
that came about, this process ends, and Ray ends its actors with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from typing import Any

from lmms_eval_grpc.executors.ray.hosts import NAMESPACE, Hosts
from lmms_eval_grpc.executors.ray.messages import (
    Cancel,
    Clear,
    Cleared,
    Connect,
    End,
    Event,
    Execute,
    Node,
    Nodes,
    Refused,
    Reported,
    Shutdown,
    pack,
    read_message,
)
from lmms_eval_grpc.executors.ray.remote_job import RemoteJob
from lmms_eval_grpc.jobs.events import Failed
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else Ray warns, at every start, that it will not hide GPUs any more from actors that asked for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
NODES_EVERY = 1.0
"""Seconds between two looks at who belongs to the cluster."""
CONNECT_TIMEOUT = 10.0
"""Seconds that a cluster's head may take to answer."""
CLEAR_TIMEOUT = 30.0
"""Seconds that a start of the server waits for the end of actors that an earlier one left."""
LOCAL_STORE_BYTES = 200 * 1024 * 1024
"""Size of the object store of a cluster that is started here; what passes through it are results."""


class Driver:
    """Obeys the server until it goes away."""

    def __init__(self, settings: Connect, writer: asyncio.StreamWriter) -> None:
        self._settings = settings
        self._writer = writer
        self._hosts = Hosts(settings)
        self._jobs: dict[int, RemoteJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Returns when the server has asked for that, or is gone."""
        self._spawn(self._watch_nodes())
        while (command := await read_message(reader)) is not None:
            match command:
                case Execute():
                    job = RemoteJob(command, self._settings, self._hosts)
                    self._jobs[command.execution] = job
                    self._spawn(self._carry(job))
                case Cancel(execution, reason):
                    if (found := self._jobs.get(execution)) is not None:
                        found.cancel(reason)
                case End(execution):
                    if (found := self._jobs.get(execution)) is not None:
                        found.end()
                case Clear(actors):
                    self._spawn(self._clear(actors))
                case Shutdown():
                    break
        await self._hosts.close()

    async def _carry(self, job: RemoteJob) -> None:
        number = job.order.execution
        try:
            async for report in job.reports():
                self._send(Reported(number, report))
        except Exception as error:
            logger.exception("job %s: the Ray driver failed", job.order.job.job_id)
            await job.abandon()
            message = f"the Ray driver failed: {type(error).__name__}: {error}"
            self._send(Reported(number, Failed(JobError(JobErrorCode.INTERNAL, "EXECUTOR_FAILED", message))))
        finally:
            self._jobs.pop(number, None)

    async def _clear(self, actors: tuple[str, ...]) -> None:
        import ray

        def kill() -> bool:
            left = False
            for name in actors:
                with contextlib.suppress(ValueError):  # there is none of that name
                    ray.kill(ray.get_actor(name, namespace=NAMESPACE))
                    left = True
            return left

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_TIMEOUT):
                while await asyncio.to_thread(kill):  # noqa: ASYNC110 - other processes set no event
                    await asyncio.sleep(0.2)
        self._send(Cleared())

    async def _watch_nodes(self) -> None:
        import ray

        told: tuple[Node, ...] | None = None
        while True:
            try:
                nodes = tuple(describe_node(node) for node in await asyncio.to_thread(ray.nodes) if node["Alive"])
            except Exception as error:
                # Of a head that stays away Ray takes its own notice: it ends this process.
                logger.warning("the cluster's nodes cannot be listed: %s", first_line(error))
            else:
                if nodes != told:
                    told = nodes
                    self._send(Nodes(nodes))
            await asyncio.sleep(NODES_EVERY)

    def _send(self, event: Event) -> None:
        self._writer.write(pack(event))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A driver that no longer does its work is worse than none: the server starts another.
            logger.error("the Ray driver failed", exc_info=error)
            sys.stderr.flush()
            os._exit(1)


def describe_node(node: dict[str, Any]) -> Node:
    """A node as ``ray.nodes()`` tells of it."""
    resources: dict[str, float] = node["Resources"]
    products = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return Node(
        node_id=node["NodeID"],
        address=node["NodeManagerAddress"],
        gpus=int(resources.get("GPU", 0)),
        cpus=int(resources.get("CPU", 0)),
        gpu_product=" ".join(products),
        memory_bytes=int(resources.get("memory", 0)),
    )


def connect(address: str) -> None:
    """Joins the cluster, or starts one here. Raises whatever Ray raises."""
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        # Ray itself takes a minute and more to find that nobody is there.
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
    if address:
        ray.init(address=address, **quiet)
    else:
        ray.init(address="local", include_dashboard=False, object_store_memory=LOCAL_STORE_BYTES, **quiet)


def main() -> None:
    """Runs a driver; see the module's description."""
    parser = argparse.ArgumentParser(prog="lmms_eval_grpc.executors.ray.driver")
    parser.add_argument("--socket-fd", type=int, required=True, help="descriptor of this end of the socket pair")
    sock = socket.socket(fileno=parser.parse_args().socket_fd)
    # Its end is announced by the socket, not by a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(ENVIRONMENT)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    threading.Thread(target=_die_with_server, args=(sock.fileno(),), daemon=True).start()
    status = asyncio.run(_run(sock))
    sys.stderr.flush()
    # The interpreter's own way out waits for threads that may wait for a cluster that is gone.
    os._exit(status)


async def _run(sock: socket.socket) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    settings = await read_message(reader)
    if settings is None:
        return 0
    try:
        # Not in a thread: what Ray starts for a cluster of its own ends with the thread that started it.
        connect(settings.address)
    except ImportError:
        return await _refuse(writer, "Ray is not installed: pip install 'lmms-eval-grpc[ray]'")
    except Exception as error:
        where = f"at {settings.address!r}" if settings.address else "on this machine"
        return await _refuse(writer, f"no Ray cluster could be had {where}: {first_line(error)}")
    # Ray takes the termination signal for itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    await Driver(settings, writer).serve(reader)
    import ray

    await asyncio.to_thread(ray.shutdown)
    return 0


async def _refuse(writer: asyncio.StreamWriter, why: str) -> int:
    writer.write(pack(Refused(why)))
    await writer.drain()
    return 3


def first_line(error: BaseException) -> str:
    """An exception in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _die_with_server(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # only for the other side's hanging up
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
