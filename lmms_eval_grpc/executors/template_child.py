"""One template process as the server sees it: the socket to it, the workers asked of it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.executors.base import SHORTAGES
from lmms_eval_grpc.executors.helper_process import start_helper
from lmms_eval_grpc.worker import processes
from lmms_eval_grpc.worker.frames import FrameBuffer, FrameError, encode_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import ForkWorker, TemplateCommand, TemplateEvent, WorkerForked

logger = logging.getLogger(__name__)

FORK_TIMEOUT = 10.0
"""Seconds that a fork may take; it takes milliseconds, unless the template hangs."""
STOP_TIMEOUT = 5.0
"""Seconds that a template may take to clean up and go."""
MAX_FAILED_FORKS = 5
"""After so many in a row a template is replaced: what it lacks may be its own (descriptors, memory of its group)."""


class TemplateUnavailable(Exception):
    """No worker can be had from this template now, whichever job it is for."""


class ForkRefused(Exception):
    """This worker cannot be started, for a reason that lies in what was asked: another one could be."""


class Unforkable(Exception):
    """What was imported has started threads."""


@dataclass(frozen=True, slots=True)
class ForkedWorker:
    """A worker that was forked from a template."""

    pid: int
    sock: socket.socket
    """The server's end of the worker's socket. The taker of this object owns it; a worker whose server has closed it
    ends itself."""
    exited: asyncio.Future[int | None]
    """Done when the worker was reaped: its exit status, minus the signal that killed it, or None if nobody knows,
    because the template died first and took the worker with it. Who has seen the worker's end by other means cancels
    it, for the template is kept until its workers have ended."""


class TemplateChild:
    """One template process. Somebody has to :meth:`listen` to it, and to :meth:`end` it in the end."""

    def __init__(
        self, process: asyncio.subprocess.Process, sock: socket.socket, on_ready: Callable[[], object]
    ) -> None:
        self._process = process
        self._sock = sock
        self._on_ready = on_ready
        self._ready = False
        self._sending = asyncio.Lock()
        self._next_id = 0
        self._failed_forks = 0
        self._forks: dict[int, asyncio.Future[WorkerForked]] = {}
        self._exits: dict[int, asyncio.Future[int | None]] = {}
        self.retired: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the reason, once nothing more is to be forked from it. Its workers go on."""

    @classmethod
    async def start(cls, *, preload: bool, on_ready: Callable[[], object]) -> TemplateChild:
        """Starts one. ``on_ready`` is called when it can fork. Raises OSError when the system has no room for it."""
        process, ours = await start_helper(
            "lmms_eval_grpc.worker.template",
            () if preload else ("--no-preload",),
            {processes.SERVER_MARKER: processes.server_marker()},
        )
        return cls(process, ours, on_ready)

    @property
    def pid(self) -> int | None:
        """The process, if it runs."""
        return self._process.pid if self._process.returncode is None else None

    async def listen(self) -> str:
        """Takes what the process says until it closes the connection; returns what its end was.

        Raises:
            Unforkable: no worker can ever be forked from it.
        """
        loop = asyncio.get_running_loop()
        buffer = FrameBuffer()
        try:
            while data := await loop.sock_recv(self._sock, 65536):
                buffer.feed(data)
                while event := buffer.take(TemplateEvent):
                    self._take(event)
        except (OSError, FrameError) as error:
            return f"the connection to the template process broke: {error}"
        return "the template process ended"

    async def fork(self, *, log_path: Path, environment: Mapping[str, str], working_dir: Path) -> ForkedWorker:
        """Makes a worker. One that comes too late to be taken ends itself, because its socket is closed by then.

        Raises:
            TemplateUnavailable: the template is gone, hangs or has been retired, or the machine has run out of
                something.
            ForkRefused: the worker's log cannot be written, or the like.
        """
        self._next_id += 1
        worker_id = self._next_id
        command = ForkWorker(
            worker_id=worker_id, log_path=str(log_path), environment=environment, working_dir=str(working_dir)
        )
        loop = asyncio.get_running_loop()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise TemplateUnavailable(f"a worker's socket cannot be made: {error}") from error
        answered = self._forks[worker_id] = loop.create_future()
        exited = self._exits[worker_id] = loop.create_future()
        try:
            async with asyncio.timeout(FORK_TIMEOUT):
                await self._send(encode_frame(TemplateCommand(fork_worker=command)), theirs)
                pid = self._judge(await answered)
        except BaseException as error:
            ours.close()
            self._forks.pop(worker_id, None)
            self._exits.pop(worker_id, None)
            exited.cancel()
            if isinstance(error, TimeoutError):
                why = f"the template process did not answer for {FORK_TIMEOUT:g} s"
                self._retire(why)
                raise TemplateUnavailable(why) from error
            if isinstance(error, OSError):
                raise TemplateUnavailable(f"the template process cannot be reached: {error}") from error
            raise
        finally:
            theirs.close()
        return ForkedWorker(pid, ours, exited)

    async def workers_gone(self) -> None:
        """Returns when no worker of it is left and none is being forked."""
        while waiting := [exited for exited in self._exits.values() if not exited.done()]:
            await asyncio.wait(waiting)

    async def end(self, *, kill: bool = False) -> int:
        """Ends the process with all its workers and returns its exit status. Nobody may listen to it any more.

        Args:
            kill: it has no workers that it would have to clean up.
        """
        self._sock.close()
        try:
            # It notices that its socket is closed, kills its workers and goes; but while it imports it has no workers
            # and notices nothing.
            if kill or not self._ready:
                self._kill()
            async with asyncio.timeout(STOP_TIMEOUT):
                return await self._process.wait()
        except TimeoutError:
            # It hangs, so that is done for it.
            try:
                await asyncio.to_thread(processes.kill_tree, self._process.pid, STOP_TIMEOUT)
            finally:
                self._kill()
            return await self._process.wait()
        finally:
            self._forget_workers()

    def give_up_unless_ready(self, seconds: float) -> None:
        """Retires a process that still imports after ``seconds``: whatever it waits for, jobs shall not."""
        if not self._ready:
            self._retire(f"the template process has not finished its imports in {seconds:g} s")

    def _take(self, event: TemplateEvent) -> None:
        match event.WhichOneof("event"):
            case "ready":
                if event.ready.thread_count != 1:
                    threads = event.ready.thread_count
                    raise Unforkable(f"the template process has {threads} threads, so no fork is sound")
                logger.info("the template process is ready after %.1f s", event.ready.import_seconds)
                self._ready = True
                self._on_ready()
            case "forked":
                answered = self._forks.pop(event.forked.worker_id, None)
                if answered is not None and not answered.done():
                    answered.set_result(event.forked)
            case "exited":
                exited = self._exits.pop(event.exited.worker_id, None)
                if exited is not None and not exited.done():
                    exited.set_result(event.exited.exit_status)

    def _judge(self, answer: WorkerForked) -> int:
        """The worker's process."""
        if not answer.error:
            self._failed_forks = 0
            return answer.pid
        if answer.error_number and answer.error_number not in SHORTAGES:
            raise ForkRefused(answer.error)
        self._failed_forks += 1
        if self._failed_forks >= MAX_FAILED_FORKS:
            self._retire(f"the template process failed {self._failed_forks} times in a row: {answer.error}")
        raise TemplateUnavailable(answer.error)

    async def _send(self, data: bytes, passenger: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with self._sending:
            if self.retired.done():
                # A frame may have been left half sent.
                raise TemplateUnavailable(self.retired.result())
            while True:
                try:
                    sent = socket.send_fds(self._sock, [data], [passenger.fileno()])
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.01)
            await loop.sock_sendall(self._sock, data[sent:])

    def _retire(self, why: str) -> None:
        if not self.retired.done():
            self.retired.set_result(why)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _forget_workers(self) -> None:
        for answered in self._forks.values():
            if not answered.done():
                answered.set_exception(TemplateUnavailable("the template process died"))
        for exited in self._exits.values():
            if not exited.done():
                exited.set_result(None)
        self._forks.clear()
        self._exits.clear()
