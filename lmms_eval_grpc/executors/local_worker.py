"""One attempt of one job in one worker process: talk to it, stop it, and let go only when nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.executors.death import describe_death
from lmms_eval_grpc.executors.log_bound import keep_log_short
from lmms_eval_grpc.executors.log_tail import read_log_tail
from lmms_eval_grpc.executors.memory_kills import MemoryKills, count_memory_kills
from lmms_eval_grpc.executors.report_queue import ReportQueue
from lmms_eval_grpc.executors.template_child import ForkRefused
from lmms_eval_grpc.executors.watchdog import Patience, Watchdog
from lmms_eval_grpc.executors.worker_process import WorkerProcess, forget_identity, patiently
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.events import Completed, Failed, NotStarted, Stopped, WorkerReport
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode, JobResult, JobStage, Progress, TaskResult
from lmms_eval_grpc.worker.frames import FrameError
from lmms_eval_grpc.worker.v1.worker_pb2 import CancelRun, RunJob, WorkerCommand

logger = logging.getLogger(__name__)

LastWord = Completed | Failed | Stopped
T = TypeVar("T")

LINGER = 2.0
"""Seconds that a worker may take to end once it has said its last word or closed its socket."""
DRAIN_TIMEOUT = 60.0
"""Seconds that reading what a worker left in its socket may take: a large result on a busy machine takes a few."""
REAP_TIMEOUT = 5.0
"""Seconds that a template may take to tell how a worker ended that is known to have ended."""
LAST_WORDS_TIMEOUT = 2.0
"""Seconds that a worker that hangs gets to write where it does."""
_LAST_WORDS_PAUSE = 0.1
_UNDER_WAY = (JobStage.GENERATING, JobStage.MERGING)
"""Stages that take long and in which another job may be prepared."""
_LARGE_JSON = 256 * 1024


class NoWorker(Exception):
    """No worker could be had, for a reason that is not the job's."""


class LocalExecution:
    """An :class:`~lmms_eval_grpc.executors.base.Execution` whose worker is a process of this machine."""

    def __init__(
        self,
        run: RunJob,
        launch: Callable[[asyncio.Event], Awaitable[WorkerProcess | None]],
        keep: Callable[[WorkerProcess], bool],
        *,
        cancel_grace: float,
        patience: Patience,
    ) -> None:
        """
        Args:
            run: what the worker is told to do.
            launch: makes or finds a worker; None when the event, which says that the job is to be stopped, was set
                before there was one. Raises NoWorker, ForkRefused.
            keep: takes a worker over that stays with its model; whether it did.
            cancel_grace: seconds between asking the worker to stop and killing it.
            patience: when the worker counts as hung.
        """
        self._run = run
        self._launch = launch
        self._keep = keep
        self._cancel_grace = cancel_grace
        self._patience = patience
        self._watchdog = Watchdog(patience)
        self._hang: JobError | None = None
        self._reports = ReportQueue()
        self._stop_asked = asyncio.Event()
        self._kill_asked = asyncio.Event()
        self._cancel_reason = ""
        self._accepted = False
        self._stays = False
        self._under_way = asyncio.Event()
        self._task = asyncio.create_task(self._execute(), name=f"job-{run.job_id}")

    async def reports(self) -> AsyncIterator[WorkerReport]:
        """See :class:`~lmms_eval_grpc.executors.base.Execution`. For one reader; of progress that was not read in time
        only the newest is kept."""
        async for report in self._reports.read():
            yield report

    async def under_way(self) -> None:
        """Returns once the model generates, a checkpoint is merged, or neither will be: until then every core that is
        busy otherwise costs time in which the job's device idles."""
        await self._under_way.wait()

    async def cancel(self, reason: str) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Execution`."""
        if not self._stop_asked.is_set():
            self._cancel_reason = reason
            self._stop_asked.set()

    def when_ended(self, callback: Callable[[LocalExecution], object]) -> None:
        """Has ``callback`` called once nothing of the worker is left, or it has been given away."""
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
        await self._look_up(scratch.remove, Path(self._run.job_dir))
        self._under_way.set()
        self._reports.put(last)
        self._reports.close()

    async def _attempt(self) -> LastWord:
        while True:
            kills_before = await self._look_up(count_memory_kills)
            worker = await self._launch(self._stop_asked)
            if worker is None:
                return Stopped()
            self._accepted, self._stays = worker.fresh, False
            self._watchdog, self._hang = Watchdog(self._patience), None
            try:
                last_word = await self._accompany(worker)
                if last_word is None and not self._accepted and not self._stop_asked.is_set():
                    # One that was prepared or had kept its model, and has died or declined: nothing of the job is done.
                    logger.info("job %s: its worker has not begun, another one does", self._run.job_id)
                    continue
                if last_word is None:
                    last_word = await self._explain(worker, kills_before)
                if isinstance(last_word, Failed):
                    return Failed(await self._look_up(self._with_log_tail, last_word.error))
                return last_word
            finally:
                if not self._stays:
                    worker.close()

    async def _accompany(self, worker: WorkerProcess) -> LastWord | None:
        """From the worker's first breath until nothing is left of it, or it is kept: its last word, if it had one."""
        worker.send(WorkerCommand(run=self._run))
        listening = asyncio.create_task(self._listen(worker))
        stopping = asyncio.create_task(self._stop_when_asked(worker))
        tending = [
            asyncio.create_task(keep_log_short(Path(self._run.log_path))),
            asyncio.create_task(self._end_if_it_hangs(worker)),
        ]
        try:
            # A program that the worker started may hold its socket open, so the socket's end alone is not waited for.
            ends: set[asyncio.Future[Any]] = {listening, worker.exited}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            would_stay = self._stays
            self._stays = would_stay and await self._give_away(worker, stopping)
            if self._stays:
                return listening.result()
            if not (would_stay or worker.exited.done()):
                await asyncio.wait({worker.exited}, timeout=LINGER)
            if await worker.end(self._kill_asked):
                # What it wrote before its end is in the socket still, or being decoded. All who could write more are
                # gone.
                await forget_identity(self._run.job_id, Path(self._run.job_dir))
                await asyncio.wait({listening}, timeout=DRAIN_TIMEOUT)
        finally:
            for task in (stopping, listening, *tending):
                task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        for outcome in await asyncio.gather(*tending, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.error("job %s: its worker was not looked after", self._run.job_id, exc_info=outcome)
        with contextlib.suppress(asyncio.CancelledError):
            return await listening
        return None

    async def _give_away(self, worker: WorkerProcess, stopping: asyncio.Task[None]) -> bool:
        """Whether the worker, whose job is done, goes on without this execution."""
        if not await worker.is_alone():
            return False
        await forget_identity(self._run.job_id, Path(self._run.job_dir))
        if self._stop_asked.is_set():
            return False
        stopping.cancel()
        return self._keep(worker)

    async def _listen(self, worker: WorkerProcess) -> LastWord | None:
        """Passes reports on until the last word, which it returns; None when the worker ends without one."""
        try:
            while (event := await worker.next_event()) is not None:
                self._watchdog.heard()
                match event.WhichOneof("event"):
                    case "accepted":
                        self._accepted = True
                    case "heartbeat":
                        self._watchdog.beat(event.heartbeat.steps)
                    case "progress_json":
                        progress = codec.decode(Progress, event.progress_json)
                        self._watchdog.progressed(progress)
                        if progress.stage in _UNDER_WAY:
                            self._under_way.set()
                        self._reports.put(progress)
                    case "task_result_json":
                        self._watchdog.moved()
                        self._reports.put(codec.decode(TaskResult, event.task_result_json))
                    case "completed_json":
                        self._stays = event.keeps_model
                        return Completed(await _decode_result(event.completed_json))
                    case "failed_json":
                        return Failed(codec.decode(JobError, event.failed_json))
                    case "cancelled":
                        return Stopped()
        except (FrameError, codec.DecodeError) as error:
            logger.warning("job %s: what its worker sent cannot be read: %s", self._run.job_id, error)
        except ConnectionError:
            pass
        return None

    async def _stop_when_asked(self, worker: WorkerProcess) -> None:
        await self._stop_asked.wait()
        if not self._kill_asked.is_set():
            worker.send(WorkerCommand(cancel=CancelRun(reason=self._cancel_reason)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kill_asked.wait(), self._cancel_grace)
        await worker.end(self._kill_asked)

    async def _end_if_it_hangs(self, worker: WorkerProcess) -> None:
        """Kills the worker once it hangs, when it has written to its log where."""
        hang = await self._watchdog.wait_for_hang(worker.condition)
        logger.warning("job %s: %s", self._run.job_id, hang.message)
        log_path = Path(self._run.log_path)
        before = await asyncio.to_thread(_size, log_path)
        if await worker.tell_where():
            loop = asyncio.get_running_loop()
            deadline, size = loop.time() + LAST_WORDS_TIMEOUT, before
            while loop.time() < deadline:
                await asyncio.sleep(_LAST_WORDS_PAUSE)
                known, size = size, await asyncio.to_thread(_size, log_path)
                if size == known > before:
                    break  # It has said all that it had to say.
        self._hang = hang
        await worker.end(self._kill_asked)

    async def _look_up(self, look: Callable[..., T], *arguments: Any) -> T:
        return await patiently(self._run.job_id, look, *arguments)

    async def _explain(self, worker: WorkerProcess, kills_before: MemoryKills) -> LastWord:
        """The last word for a worker that had none."""
        if self._stop_asked.is_set():
            return Stopped()
        if self._hang is not None:
            return Failed(self._hang)
        # It has ended, and its template knows how, unless it hangs.
        await asyncio.wait({worker.exited}, timeout=REAP_TIMEOUT)
        kills = await self._look_up(count_memory_kills)
        status = worker.exited.result() if worker.exited.done() else None
        return Failed(describe_death(status, kills.known, kills.more_than(kills_before)))

    def _with_log_tail(self, error: JobError) -> JobError:
        return JobError(error.code, error.reason, error.message, error.details, read_log_tail(Path(self._run.log_path)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


async def _decode_result(text: str) -> JobResult:
    if len(text) < _LARGE_JSON:
        return codec.decode(JobResult, text)
    result: JobResult = await asyncio.to_thread(codec.decode, JobResult, text)
    return result
