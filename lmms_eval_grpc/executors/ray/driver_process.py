"""The driver as the server sees it: starts it, starts it again when it has ended, and passes messages on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from lmms_eval_grpc.executors.helper_process import start_helper
from lmms_eval_grpc.executors.ray.messages import Command, Connect, Event, Refused, Shutdown, pack, read_message

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds until a driver that has ended is started again: doubled from the one to the other."""
HEALTHY_AFTER = 60.0
"""A driver that lived this many seconds has its predecessors' ends forgotten."""
STOP_TIMEOUT = 40.0
"""Seconds that a driver may take to end its actors, and a cluster of its own, before it is killed."""


class ClusterUnavailable(RuntimeError):
    """There is no cluster. The message says why, and what to do."""


class DriverProcess:
    """One driver, and its successors.

    Args:
        settings: what each is told first.
        on_event: called with what the driver says.
        on_lost: called, with the reason, when a driver has ended that had been connected; its jobs have ended with it.
    """

    def __init__(self, settings: Connect, on_event: Callable[[Event], None], on_lost: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_event = on_event
        self._on_lost = on_lost
        self._writer: asyncio.StreamWriter | None = None
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.trouble = "the Ray driver is not started"
        """Why there is no connection, where there is none."""
        self.pid: int | None = None

    async def start(self) -> None:
        """Returns when the first driver is connected to the cluster.

        Raises:
            ClusterUnavailable: it could not be.
        """
        self._supervisor = asyncio.create_task(self._supervise(), name="ray-driver")
        await asyncio.shield(self._connected)

    def send(self, command: Command) -> bool:
        """Whether there is a driver to tell that."""
        if self._writer is None or self._writer.is_closing():
            return False
        self._writer.write(pack(command))
        return True

    async def stop(self) -> None:
        """Ends the driver with its actors; returns when it is gone."""
        self._stopping.set()
        self.send(Shutdown())
        if self._writer is not None and not self._connected.done():
            self._writer.close()  # It may wait for a cluster, and hears nothing meanwhile but this.
        if self._supervisor is not None:
            await asyncio.wait({self._supervisor})

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            began = loop.time()
            try:
                self.trouble = await self._run_once()
            except OSError as error:
                self.trouble = f"the Ray driver could not be started: {error}"
            except Exception as error:
                logger.exception("the Ray driver cannot be supervised")
                self.trouble = f"the Ray driver cannot be supervised: {type(error).__name__}: {error}"
            if not self._connected.done():
                self._connected.set_exception(ClusterUnavailable(self.trouble))
                return
            if self._stopping.is_set():
                return
            delay = FIRST_DELAY if loop.time() - began > HEALTHY_AFTER else min(2 * delay, LONGEST_DELAY)
            logger.warning("%s; no job can be started until it is back, next try in %.0f s", self.trouble, delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run_once(self) -> str:
        """Runs one driver until it has ended, and says why it has."""
        process, ours = await start_helper("lmms_eval_grpc.executors.ray.driver")
        self.pid = process.pid
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(pack(self._settings))
        self._writer = writer
        if self._stopping.is_set():
            self.send(Shutdown())
        killer = asyncio.create_task(self._kill_late(process))
        was_connected, why = False, ""
        try:
            while (event := await read_message(reader)) is not None:
                if isinstance(event, Refused):
                    why = event.why
                    continue
                if not was_connected:
                    was_connected = True
                    if not self._connected.done():
                        self._connected.set_result(None)
                self._on_event(event)
        finally:
            self._writer = None
            writer.close()
            status = await process.wait()
            self.pid = None
            killer.cancel()
        why = why or f"the Ray driver, and with it the connection to the cluster, ended with status {status}"
        if was_connected:
            self._on_lost(why)
        return why

    async def _kill_late(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        await asyncio.sleep(STOP_TIMEOUT)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
