"""The server's side of a template process: starts it, asks it for workers, restarts it when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import lmms_eval_grpc
from lmms_eval_grpc.worker import processes
from lmms_eval_grpc.worker.frames import FrameBuffer, FrameError, encode_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import ForkWorker, TemplateCommand, TemplateEvent

logger = logging.getLogger(__name__)

FORK_TIMEOUT = 10.0
"""Seconds that a fork may take; it takes milliseconds, unless the template hangs."""
STOP_TIMEOUT = 5.0
"""Seconds that a template may take to clean up and go."""
HEALTHY_AFTER = 60.0
"""A template that lived this many seconds is restarted without delay, and its earlier deaths are forgotten."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
MAX_FAILURES = 5
"""So many deaths in a row, and it is not started again."""


class TemplateUnavailable(Exception):
    """No worker can be had from this template now."""


@dataclass(frozen=True, slots=True)
class ForkedWorker:
    """A worker that was forked from a template."""

    pid: int
    exited: asyncio.Future[int | None]
    """Done when the worker was reaped: its exit status, minus the signal that killed it, or None if nobody knows,
    because the template died first and took the worker with it."""


class _Unforkable(Exception):
    """What was imported has started threads."""


class _State(Enum):
    IMPORTING = "importing"
    READY = "ready"
    DOWN = "down"


class TemplateProcess:
    """One template process, and its successors."""

    def __init__(self, *, preload: bool) -> None:
        self._preload = preload
        self._state = _State.DOWN
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._sock: socket.socket | None = None
        self._sending = asyncio.Lock()
        self._next_id = 0
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._exits: dict[int, asyncio.Future[int | None]] = {}

    @property
    def ready(self) -> bool:
        """Whether a worker can be forked right now."""
        return self._state is _State.READY

    @property
    def pid(self) -> int | None:
        """The process that runs now, if any."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Starts the process behind the caller's back. Does nothing if that was done."""
        if self._supervisor is None:
            self._enter(_State.IMPORTING)
            self._supervisor = asyncio.create_task(self._supervise(), name="template-supervisor")

    async def usable(self) -> bool:
        """Whether it can fork; waits for the answer while it imports, not while it is down."""
        while self._state is _State.IMPORTING:
            await self._changed.wait()
        return self.ready

    async def fork(
        self, sock: socket.socket, *, log_path: Path, environment: Mapping[str, str], working_dir: Path
    ) -> ForkedWorker:
        """Makes a worker that owns a duplicate of ``sock``.

        Raises:
            TemplateUnavailable: the template is not ready, hangs, or could not fork.
        """
        if not self.ready:
            raise TemplateUnavailable("the template process is not ready")
        self._next_id += 1
        worker_id = self._next_id
        command = ForkWorker(
            worker_id=worker_id, log_path=str(log_path), environment=environment, working_dir=str(working_dir)
        )
        loop = asyncio.get_running_loop()
        forked = self._forks[worker_id] = loop.create_future()
        exited = self._exits[worker_id] = loop.create_future()
        try:
            async with asyncio.timeout(FORK_TIMEOUT):
                await self._send(encode_frame(TemplateCommand(fork_worker=command)), sock)
                return ForkedWorker(await forked, exited)
        except BaseException as error:
            self._forks.pop(worker_id, None)
            self._exits.pop(worker_id, None)
            if isinstance(error, TimeoutError):
                self._kill()
                raise TemplateUnavailable(f"the template process did not answer for {FORK_TIMEOUT:g} s") from error
            if isinstance(error, OSError):
                raise TemplateUnavailable(f"the template process is gone: {error}") from error
            raise

    async def stop(self) -> None:
        """Ends the process with all its workers; returns when nothing is left of them."""
        if self._supervisor is None:
            return
        self._supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._supervisor
        self._supervisor = None

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while failures < MAX_FAILURES:
                self._enter(_State.IMPORTING)
                started = loop.time()
                try:
                    why = await self._run_once()
                except _Unforkable as error:
                    logger.warning("%s; every job's worker imports for itself, which takes seconds", error)
                    return
                self._enter(_State.DOWN)
                failures = 1 if loop.time() - started > HEALTHY_AFTER else failures + 1
                delay = min(FIRST_DELAY * 2 ** (failures - 1), LONGEST_DELAY)
                logger.warning("%s; jobs start without it meanwhile, next try in %.1f s", why, delay)
                await asyncio.sleep(delay)
            logger.error(
                "the template process failed %d times in a row and is given up; jobs start without it", failures
            )
        finally:
            self._enter(_State.DOWN)

    async def _run_once(self) -> str:
        """Runs one process to its end and says what the end was."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    env=_environment(),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                return f"the template process could not be started: {error}"
            finally:
                theirs.close()
            self._sock = ours
            try:
                why = await self._listen(ours)
            finally:
                self._sock = None
                ours.close()
                status = await self._end(self._process)
            return f"{why} (exit status {status})"
        finally:
            ours.close()
            self._forget_workers()

    async def _listen(self, sock: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        buffer = FrameBuffer()
        try:
            while data := await loop.sock_recv(sock, 65536):
                buffer.feed(data)
                while event := buffer.take(TemplateEvent):
                    self._take(event)
        except (OSError, FrameError) as error:
            return f"the connection to the template process broke: {error}"
        return "the template process ended"

    def _take(self, event: TemplateEvent) -> None:
        match event.WhichOneof("event"):
            case "ready":
                if event.ready.thread_count != 1:
                    raise _Unforkable(
                        f"the template process has {event.ready.thread_count} threads, so no fork is sound"
                    )
                logger.info("the template process is ready after %.1f s", event.ready.import_seconds)
                self._enter(_State.READY)
            case "forked":
                future = self._forks.pop(event.forked.worker_id, None)
                if future is not None and not future.done():
                    if event.forked.error:
                        future.set_exception(TemplateUnavailable(event.forked.error))
                    else:
                        future.set_result(event.forked.pid)
            case "exited":
                exited = self._exits.pop(event.exited.worker_id, None)
                if exited is not None and not exited.done():
                    exited.set_result(event.exited.exit_status)

    async def _send(self, data: bytes, passenger: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with self._sending:
            sock = self._sock
            if sock is None:
                raise TemplateUnavailable("the template process is not ready")
            while True:
                try:
                    sent = socket.send_fds(sock, [data], [passenger.fileno()])
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.01)
            await loop.sock_sendall(sock, data[sent:])

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        # Its socket is closed by now: it kills its workers and goes. While it imports it has none, and notices nothing.
        if not self.ready:
            self._kill()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                return await process.wait()
        except TimeoutError:
            # It hangs, so that is done for it.
            await asyncio.to_thread(processes.kill_tree, process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return await process.wait()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _forget_workers(self) -> None:
        for future in self._forks.values():
            if not future.done():
                future.set_exception(TemplateUnavailable("the template process died"))
        for exited in self._exits.values():
            if not exited.done():
                exited.set_result(None)
        self._forks.clear()
        self._exits.clear()

    def _enter(self, state: _State) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()

    def _command(self, descriptor: int) -> list[str]:
        # -P: the current folder may hold a "datasets" or a "queue.py", which must not hide the real ones.
        command = [sys.executable, "-P", "-m", "lmms_eval_grpc.worker.template", "--socket-fd", str(descriptor)]
        return command if self._preload else [*command, "--no-preload"]


def _environment() -> dict[str, str]:
    """This process's environment, in which this very package is found."""
    environment = dict(os.environ)
    root = Path(lmms_eval_grpc.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH", "")]))
    return environment
