"""A worker process as the server sees it: the socket to it, its processes, and their end."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from lmms_eval_grpc.executors.base import is_shortage
from lmms_eval_grpc.executors.template_child import ForkedWorker
from lmms_eval_grpc.executors.watchdog import Condition
from lmms_eval_grpc.worker import processes
from lmms_eval_grpc.worker.frames import encode_frame, read_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import WorkerCommand, WorkerEvent

logger = logging.getLogger(__name__)

T = TypeVar("T")

UNKILLABLE_AFTER = 10.0
"""Seconds after which a process that was killed and is there still is worth a line in the log; a server that is being
stopped waits no longer."""
_STREAM_LIMIT = 1024 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.5

# Looking at a process that hangs in the kernel may itself hang: in threads that nothing else waits for.
_process_threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="worker-processes")


class WorkerProcess:
    """A worker that was forked. Who holds it ends it and closes it, or gives it to somebody else."""

    def __init__(
        self,
        forked: ForkedWorker,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        identity: processes.WorkerIdentity | None,
        job_id: str,
    ) -> None:
        self._forked = forked
        self._reader = reader
        self._writer = writer
        self._identity = identity
        self._job_id = job_id
        self.fresh = True
        """Whether it has not been told anything yet."""

    @classmethod
    async def connect(cls, forked: ForkedWorker, marker: str, job_id: str) -> WorkerProcess:
        """``marker`` is what tells its processes from all others, ``job_id`` whose worker it is."""
        try:
            reader, writer = await asyncio.open_unix_connection(sock=forked.sock, limit=_STREAM_LIMIT)
        except BaseException:
            forked.sock.close()
            raise
        try:
            identity = await patiently(job_id, processes.identify, forked.pid, marker)
        except BaseException:
            writer.close()
            raise
        return cls(forked, reader, writer, identity, job_id)

    @property
    def pid(self) -> int:
        return self._forked.pid

    @property
    def exited(self) -> asyncio.Future[int | None]:
        """See :attr:`~lmms_eval_grpc.executors.template_child.ForkedWorker.exited`."""
        return self._forked.exited

    def pass_on(self, job_id: str, marker: str) -> None:
        """Makes it the worker of another job."""
        self._job_id = job_id
        if self._identity is not None:
            self._identity = dataclasses.replace(self._identity, marker=marker)

    def send(self, command: WorkerCommand) -> None:
        """Sends a command; one that does not arrive, because the worker is gone, is no error."""
        self.fresh = False
        self._writer.write(encode_frame(command))

    async def next_event(self) -> WorkerEvent | None:
        """The next thing that it says; None when its socket is closed. Raises FrameError, ConnectionError."""
        return await read_frame(self._reader, WorkerEvent)

    async def is_alone(self) -> bool:
        """Whether it lives, and nothing that it started does."""
        if self._identity is None or self.exited.done():
            return False
        members = await patiently(self._job_id, processes.members, self._identity)
        return [process.pid for process in members] == [self.pid]

    async def end(self, hurry: asyncio.Event) -> bool:
        """Kills all its processes and returns True when none is left, however long that takes: until then they hold its
        devices. False if ``hurry`` is set and some do not die."""
        if self._identity is None:  # it was gone before it could be looked at
            return True
        loop = asyncio.get_running_loop()
        warn_after, pause = UNKILLABLE_AFTER, _FIRST_PAUSE
        began = loop.time()
        while left := await patiently(self._job_id, processes.kill_members, self._identity):
            took = loop.time() - began
            if took >= warn_after:
                logger.warning("job %s: %s", self._job_id, _describe_survivors(left, took))
                warn_after *= 2
            if took >= UNKILLABLE_AFTER and hurry.is_set():
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True

    async def condition(self) -> Condition:
        """How the kernel sees it."""
        if self._identity is None:
            return Condition("", 0)
        return await patiently(self._job_id, _look, self._identity)

    async def tell_where(self) -> bool:
        """Has it write to its log where it is; False when it cannot be asked."""
        if self._identity is None:
            return False
        return await patiently(self._job_id, processes.tell_where, self._identity)

    def close(self) -> None:
        """Lets go of the socket. A worker that still runs ends itself."""
        self._writer.close()
        self._forked.exited.cancel()


async def patiently(job_id: str, look: Callable[..., T], *arguments: Any) -> T:
    """What ``look`` returns; tried again for as long as the machine has no descriptor or thread for it."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await loop.run_in_executor(_process_threads, look, *arguments)
        except Exception as error:
            if not is_shortage(error):
                raise
            logger.warning("job %s: the process table cannot be read: %s", job_id, error)
        await asyncio.sleep(_LONGEST_PAUSE)


async def forget_identity(job_id: str, job_dir: Path) -> None:
    """Removes the note in the job's folder that says which process its worker is."""
    await patiently(job_id, _remove_identity, job_dir)


def _look(identity: processes.WorkerIdentity) -> Condition:
    found = processes.members(identity)
    state = next((process.state for process in found if process.pid == identity.pid), "")
    return Condition(state, processes.bytes_read(process.pid for process in found))


def _remove_identity(job_dir: Path) -> None:
    try:
        processes.remove_identity(job_dir)
    except OSError as error:
        # The next start of the server will look for this worker in vain, no more.
        logger.warning("%s", error)


def _describe_survivors(left: Sequence[processes.Process], seconds: float) -> str:
    which = ", ".join(f"{process.pid} (state {process.state})" for process in left)
    return (
        f"its processes {which} were killed {seconds:.0f} s ago and are there still, so its devices stay taken; one in"
        " state D waits for a driver or a network file system"
    )
