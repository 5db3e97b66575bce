"""One attempt of one job in one worker process: talk to it, stop it, and let go only when nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from lmms_eval_grpc.executors.base import is_shortage
from lmms_eval_grpc.executors.log_tail import read_log_tail
from lmms_eval_grpc.executors.template_child import ForkedWorker, ForkRefused
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.events import Completed, Failed, NotStarted, Stopped, WorkerReport
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode, JobResult, JobStage, Progress, TaskResult
from lmms_eval_grpc.worker import processes
from lmms_eval_grpc.worker.frames import FrameError, encode_frame, read_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import CancelRun, RunJob, WorkerCommand, WorkerEvent

logger = logging.getLogger(__name__)

LastWord = Completed | Failed | Stopped
T = TypeVar("T")

LINGER = 2.0
"""Seconds that a worker may take to end once it has said its last word or closed its socket."""
DRAIN_TIMEOUT = 60.0
"""Seconds that reading what a worker left in its socket may take: a large result on a busy machine takes a few."""
REAP_TIMEOUT = 5.0
"""Seconds that a template may take to tell how a worker ended that is known to have ended."""
UNKILLABLE_AFTER = 10.0
"""Seconds after which a process that was killed and is there still is worth a line in the log; a server that is being
stopped waits no longer."""
_LARGE_JSON = 256 * 1024
_STREAM_LIMIT = 1024 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.5

# Looking at a process that hangs in the kernel may itself hang: in threads that nothing else waits for.
_process_threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="worker-processes")


class NoWorker(Exception):
    """No worker could be had, for a reason that is not the job's."""


class LocalExecution:
    """An :class:`~lmms_eval_grpc.executors.base.Execution` whose worker is a process of this machine."""

    def __init__(
        self,
        run: RunJob,
        launch: Callable[[asyncio.Event], Awaitable[ForkedWorker | None]],
        *,
        marker: str,
        log_path: Path,
        cancel_grace: float,
    ) -> None:
        """
        Args:
            run: what the worker is told to do.
            launch: makes a worker; None when the event, which says that the job is to be stopped, was set before there
                was one. Raises NoWorker, ForkRefused.
            marker: what tells this worker's processes from all others.
            log_path: the worker's log.
            cancel_grace: seconds between asking the worker to stop and killing it.
        """
        self._run = run
        self._launch = launch
        self._marker = marker
        self._log_path = log_path
        self._cancel_grace = cancel_grace
        self._reports = _Reports()
        self._stop_asked = asyncio.Event()
        self._kill_asked = asyncio.Event()
        self._cancel_reason = ""
        self._task = asyncio.create_task(self._execute(), name=f"job-{run.job_id}")

    async def reports(self) -> AsyncIterator[WorkerReport]:
        """See :class:`~lmms_eval_grpc.executors.base.Execution`. For one reader; of progress that was not read in time
        only the newest is kept."""
        while (report := await self._reports.next()) is not None:
            yield report

    async def cancel(self, reason: str) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Execution`."""
        if not self._stop_asked.is_set():
            self._cancel_reason = reason
            self._stop_asked.set()

    def when_ended(self, callback: Callable[[LocalExecution], object]) -> None:
        """Has ``callback`` called once nothing of the worker is left."""
        self._task.add_done_callback(lambda _: callback(self))

    async def end(self) -> None:
        """Kills the worker without grace; returns when nothing is left of it. The last report is Stopped, unless the
        job had come to its end."""
        self._kill_asked.set()
        self._stop_asked.set()
        await asyncio.wait({self._task})

    async def _execute(self) -> None:
        self._reports.put(Progress(JobStage.STARTING))
        last: LastWord | NotStarted
        try:
            last = await self._attempt()
        except NoWorker as error:
            last = NotStarted(f"no worker could be started: {error}")
        except ForkRefused as error:
            last = Failed(JobError(JobErrorCode.WORKER_DIED, "WORKER_NOT_STARTED", str(error)))
        except Exception as error:
            logger.exception("job %s: the executor failed", self._run.job_id)
            last = Failed(JobError(JobErrorCode.INTERNAL, "EXECUTOR_FAILED", f"{type(error).__name__}: {error}"))
        self._reports.put(last)
        self._reports.close()

    async def _attempt(self) -> LastWord:
        worker = await self._launch(self._stop_asked)
        if worker is None:
            return Stopped()
        try:
            reader, writer = await asyncio.open_unix_connection(sock=worker.sock, limit=_STREAM_LIMIT)
        except BaseException:
            worker.sock.close()
            raise
        try:
            last_word = await self._accompany(worker, reader, writer) or await self._explain(worker)
            if isinstance(last_word, Failed):
                return Failed(await self._patiently(self._with_log_tail, last_word.error))
            return last_word
        finally:
            writer.close()
            worker.exited.cancel()

    async def _accompany(
        self, worker: ForkedWorker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> LastWord | None:
        """From the worker's first breath until nothing is left of it: its last word, if it had one."""
        identity = await self._patiently(processes.identify, worker.pid, self._marker)
        writer.write(encode_frame(WorkerCommand(run=self._run)))
        listening = asyncio.create_task(self._listen(reader))
        stopping = asyncio.create_task(self._stop_when_asked(writer, identity))
        try:
            # A program that the worker started may hold its socket open, so the socket's end alone is not waited for.
            ends: set[asyncio.Future[Any]] = {listening, worker.exited}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not worker.exited.done():
                await asyncio.wait({worker.exited}, timeout=LINGER)
            if identity is None or await self._end_members(identity):
                # What it wrote before its end is in the socket still, or being decoded. All who could write more are
                # gone.
                await self._patiently(_remove_identity, Path(self._run.job_dir))
                await asyncio.wait({listening}, timeout=DRAIN_TIMEOUT)
        finally:
            stopping.cancel()
            listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        with contextlib.suppress(asyncio.CancelledError):
            return await listening
        return None

    async def _listen(self, reader: asyncio.StreamReader) -> LastWord | None:
        """Passes reports on until the last word, which it returns; None when the worker ends without one."""
        try:
            while (event := await read_frame(reader, WorkerEvent)) is not None:
                match event.WhichOneof("event"):
                    case "progress_json":
                        self._reports.put(codec.decode(Progress, event.progress_json))
                    case "task_result_json":
                        self._reports.put(codec.decode(TaskResult, event.task_result_json))
                    case "completed_json":
                        return Completed(await _decode_result(event.completed_json))
                    case "failed_json":
                        return Failed(codec.decode(JobError, event.failed_json))
                    case "cancelled":
                        return Stopped()
        except FrameError as error:
            logger.warning("job %s: what its worker sent cannot be read: %s", self._run.job_id, error)
        except ConnectionError:
            pass
        return None

    async def _stop_when_asked(self, writer: asyncio.StreamWriter, identity: processes.WorkerIdentity | None) -> None:
        await self._stop_asked.wait()
        if not self._kill_asked.is_set():
            writer.write(encode_frame(WorkerCommand(cancel=CancelRun(reason=self._cancel_reason))))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kill_asked.wait(), self._cancel_grace)
        if identity is not None:
            await self._end_members(identity)

    async def _end_members(self, identity: processes.WorkerIdentity) -> bool:
        """Kills all processes of the worker and returns True when none is left, however long that takes: until then
        they hold its devices. False if the server is being stopped and some do not die."""
        loop = asyncio.get_running_loop()
        warn_after, pause = UNKILLABLE_AFTER, _FIRST_PAUSE
        began = loop.time()
        while left := await self._patiently(processes.kill_members, identity):
            took = loop.time() - began
            if took >= warn_after:
                logger.warning("job %s: %s", self._run.job_id, _describe_survivors(left, took))
                warn_after *= 2
            if took >= UNKILLABLE_AFTER and self._kill_asked.is_set():
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True

    async def _patiently(self, look: Callable[..., T], *arguments: Any) -> T:
        """What ``look`` returns; tried again for as long as the machine has no descriptor or thread for it."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(_process_threads, look, *arguments)
            except Exception as error:
                if not is_shortage(error):
                    raise
                logger.warning("job %s: the process table cannot be read: %s", self._run.job_id, error)
            await asyncio.sleep(_LONGEST_PAUSE)

    async def _explain(self, worker: ForkedWorker) -> LastWord:
        """The last word for a worker that had none."""
        if self._stop_asked.is_set():
            return Stopped()
        # It has ended, and its template knows how, unless it hangs.
        await asyncio.wait({worker.exited}, timeout=REAP_TIMEOUT)
        return Failed(describe_death(worker.exited.result() if worker.exited.done() else None))

    def _with_log_tail(self, error: JobError) -> JobError:
        return JobError(error.code, error.reason, error.message, error.details, read_log_tail(self._log_path))


def describe_death(status: int | None) -> JobError:
    """Why a worker without a last word is dead, from its exit status (minus the signal; None when nobody knows)."""
    if status is None:
        return JobError(
            JobErrorCode.WORKER_DIED,
            "WORKER_KILLED",
            "the worker died, and the template process that it was forked from could not say how: it died or hangs",
        )
    if status >= 0:
        return JobError(
            JobErrorCode.WORKER_DIED,
            "WORKER_EXITED",
            f"the worker ended with exit status {status} before the job was done",
            {"exit_status": str(status)},
        )
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    message = f"the worker was killed by {name}"
    if name == "SIGKILL":
        message += (
            "; if nobody did that on purpose, it was the kernel's out-of-memory killer: try a smaller batch_size, or a"
            " machine with more memory"
        )
    return JobError(JobErrorCode.WORKER_DIED, "WORKER_KILLED", message, {"exit_status": str(status), "signal": name})


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


class _Reports:
    """A queue with one reader in which a progress replaces an unread one right before it."""

    def __init__(self) -> None:
        self._waiting: deque[WorkerReport] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, report: WorkerReport) -> None:
        if isinstance(report, Progress) and self._waiting and isinstance(self._waiting[-1], Progress):
            self._waiting.pop()
        self._waiting.append(report)
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def next(self) -> WorkerReport | None:
        while not self._waiting:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()


async def _decode_result(text: str) -> JobResult:
    if len(text) < _LARGE_JSON:
        return codec.decode(JobResult, text)
    result: JobResult = await asyncio.to_thread(codec.decode, JobResult, text)
    return result
