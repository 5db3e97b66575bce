"""One attempt of one job: from the moment it has its devices to the record of its last word."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lmms_eval_grpc.executors.base import Device, Execution, Executor, is_shortage
from lmms_eval_grpc.jobs.codec import encode
from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.events import Completed, Failed, HostLost, NotStarted, StateChange, Stopped
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode, JobResult, Progress, TaskResult
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.lost_attempts import HOST_LOST, count_lost_attempts, too_many_attempts
from lmms_eval_grpc.scheduler.progress import ProgressThrottle, RemainingTime
from lmms_eval_grpc.scheduler.retry import describe_retry, is_retried

T = TypeVar("T")
LastWord = Completed | Failed | Stopped | NotStarted | HostLost

_LOG = logging.getLogger(__name__)
_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0
"""Seconds between attempts to record something while the store is unavailable: doubled from the one to the other."""
NOT_STARTED_REST = 5.0
"""Seconds for which a job that could not be started keeps its devices before it waits in the queue again: what stood in
its way stands in the next one's."""


class Run:
    """Carries a job that is RUNNING through one attempt.

    While the store is unavailable, task results and the end of the job are tried again until they are recorded; the
    worker's further reports wait meanwhile, and progress is dropped.
    """

    def __init__(
        self,
        job_id: str,
        devices: Sequence[Device],
        job_dir: Path,
        *,
        executor: Executor,
        journal: Journal,
        progress_interval: float,
        newest_order: Callable[[], int],
        max_attempts: int,
    ) -> None:
        """``newest_order`` tells the order of the job that was submitted last: a failed one waits behind it."""
        self._job_id = job_id
        self._devices = tuple(devices)
        self._job_dir = job_dir
        self._executor = executor
        self._journal = journal
        self._newest_order = newest_order
        self._progress = ProgressThrottle(self._record_progress, progress_interval)
        self._remaining = RemainingTime()
        self._max_attempts = max_attempts
        self._lost_attempts = 0
        self._execution: Execution | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._cancel_reason: str | None = None
        self._timed_out = False
        self._server_stops = False
        self._disturbed = asyncio.Event()

    def cancel(self, reason: str) -> None:
        """Has the worker stopped, whatever it is at. Idempotent; the job must be CANCELLING."""
        self._cancel_reason = reason
        self._disturbed.set()
        self._ask_to_stop(reason)

    def server_stops(self) -> None:
        """From now on the end of the worker is not the job's: it goes back into the queue, unless it completes."""
        self._server_stops = True
        self._disturbed.set()

    async def carry(self, job: Job) -> None:
        """Starts the worker of ``job``, which is durably RUNNING, and records what it reports to its last word."""
        word = await self._attempt(job)
        if isinstance(word, NotStarted):
            _LOG.warning("job %s goes back into the queue: %s", self._job_id, word.reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._disturbed.wait(), NOT_STARTED_REST)
        if isinstance(word, HostLost):
            _LOG.warning("job %s lost its host: %s", self._job_id, word.reason)
            self._lost_attempts = 1 + await self._insist(partial(count_lost_attempts, self._journal, self._job_id))
        await self._progress.flush()
        await self._conclude(word)

    async def _attempt(self, job: Job) -> LastWord:
        limit = job.spec.run_timeout if isinstance(job.spec, EvaluationSpec) else None
        timer: asyncio.TimerHandle | None = None
        try:
            await asyncio.to_thread(self._job_dir.mkdir, parents=True, exist_ok=True)
            if self._cancel_reason is not None or self._server_stops:
                return Stopped()
            if limit is not None:
                timer = asyncio.get_running_loop().call_later(limit, self._time_out, limit)
            self._execution = await self._executor.execute(job, self._devices, self._job_dir)
            if self._cancel_reason is not None or self._timed_out:
                self._ask_to_stop(self._cancel_reason or "run_timeout")
            return await self._listen(self._execution)
        except Exception as error:
            if self._execution is None and is_shortage(error):
                return NotStarted(f"no worker could be started: {error}")
            _LOG.exception("the executor failed at job %s", self._job_id)
            await self._abandon()
            message = f"the executor failed: {type(error).__name__}: {error}"
            return Failed(JobError(JobErrorCode.INTERNAL, "EXECUTOR_FAILED", message))
        finally:
            if timer is not None:
                timer.cancel()

    async def _listen(self, execution: Execution) -> LastWord:
        async for report in execution.reports():
            if isinstance(report, Progress):
                self._progress.offer(self._remaining.complete(report))
            elif isinstance(report, TaskResult):
                await self._take_result(report)
            else:
                return report
        raise RuntimeError("its reports ended without a last word")

    async def _take_result(self, result: TaskResult) -> None:
        job = await self._insist(partial(self._journal.job, self._job_id))
        if any(_same_outcome(result, known) for known in job.task_results):
            return  # An earlier attempt told it.
        await self._progress.flush()  # Nothing older may follow the result.
        await self._insist(partial(self._journal.record, self._job_id, result))

    async def _conclude(self, word: LastWord) -> None:
        while True:
            job = await self._insist(partial(self._journal.job, self._job_id))
            change, result = self._verdict(job, word)
            more: dict[str, Any] = {"result": result}
            if change.state is JobState.QUEUED and change.error is not None:
                _LOG.warning("job %s is tried again: %s: %s", self._job_id, change.reason, change.error.message)
                more["behind"] = self._newest_order()
            try:
                await self._insist(partial(self._journal.record, self._job_id, change, **more))
            except IllegalTransition:
                continue  # Its cancellation came in between: judge again.
            except Exception as error:
                if not isinstance(word, Completed):
                    raise
                _LOG.exception("the result of job %s cannot be recorded", self._job_id)
                word = Failed(_unrecordable(error))
                continue
            return

    def _verdict(self, job: Job, word: LastWord) -> tuple[StateChange, JobResult | None]:
        def change(state: JobState, reason: str = "", error: JobError | None = None) -> StateChange:
            return StateChange(job.state, state, job.attempt, reason, error)

        if isinstance(word, Completed):
            return change(JobState.COMPLETED), word.result
        if job.state is JobState.CANCELLING:
            if isinstance(word, Failed):
                # A worker that is being stopped may fail at that; the job was given up by its owner either way.
                _LOG.info("cancelled job %s ended with: %s", self._job_id, word.error.message)
            return change(JobState.CANCELLED, job.cancel_reason), None
        if self._timed_out:
            return self._failed(job, _timeout(job, word)), None
        if self._server_stops:
            return change(JobState.QUEUED, "server stopped"), None
        if isinstance(word, NotStarted):
            return change(JobState.QUEUED, word.reason), None
        if isinstance(word, HostLost):
            if self._lost_attempts < self._max_attempts:
                return change(JobState.QUEUED, f"{HOST_LOST}: {word.reason}"), None
            return change(JobState.FAILED, error=too_many_attempts(self._lost_attempts, word.reason)), None
        if isinstance(word, Failed):
            return self._failed(job, word.error), None
        error = JobError(JobErrorCode.INTERNAL, "WORKER_STOPPED", "the worker stopped although nobody had asked it to")
        return self._failed(job, error), None

    @staticmethod
    def _failed(job: Job, error: JobError) -> StateChange:
        if is_retried(job, error):
            return StateChange(job.state, JobState.QUEUED, job.attempt, describe_retry(job, error), error)
        return StateChange(job.state, JobState.FAILED, job.attempt, "", error)

    def _time_out(self, limit: float) -> None:
        _LOG.info("job %s has run for %g s, its run_timeout: stopping it", self._job_id, limit)
        self._timed_out = True
        self._ask_to_stop("run_timeout")

    def _ask_to_stop(self, reason: str) -> None:
        if self._execution is not None and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop_execution(self._execution, reason))

    async def _stop_execution(self, execution: Execution, reason: str) -> None:
        try:
            await execution.cancel(reason)
        except Exception:
            _LOG.exception("the executor could not stop job %s", self._job_id)

    async def _abandon(self) -> None:
        """Stops a failed execution and waits for its last word: until then its worker may hold the devices."""
        if self._execution is None:
            return
        self._ask_to_stop("the executor failed")
        try:
            async for _ in self._execution.reports():
                pass
        except Exception:
            _LOG.exception("what became of the worker of job %s is not known", self._job_id)
        if self._stopping is not None:
            await asyncio.wait({self._stopping})

    async def _record_progress(self, progress: Progress) -> None:
        try:
            await self._journal.record(self._job_id, progress)
        except StoreUnavailable:
            _LOG.debug("dropped a progress report of job %s", self._job_id)
        except Exception:
            _LOG.exception("could not record the progress of job %s", self._job_id)

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        delay = _FIRST_RETRY
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                _LOG.warning("job %s waits for the store: %s", self._job_id, error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY)


def _same_outcome(one: TaskResult, other: TaskResult) -> bool:
    """Whether two results of a task differ in nothing but the time that it took. As texts: NaN is no other than NaN."""
    return encode(dataclasses.replace(one, elapsed_seconds=0.0)) == encode(
        dataclasses.replace(other, elapsed_seconds=0.0)
    )


def _unrecordable(error: Exception) -> JobError:
    return JobError(
        JobErrorCode.INTERNAL,
        "RESULT_NOT_RECORDED",
        f"the job is done, but its result cannot be recorded: {type(error).__name__}: {error}; its results files are in"
        " the job's folder, unless the job names another",
    )


def _timeout(job: Job, word: Failed | Stopped | NotStarted | HostLost) -> JobError:
    limit = job.spec.run_timeout if isinstance(job.spec, EvaluationSpec) else None
    return JobError(
        JobErrorCode.TIMEOUT,
        "RUN_TIMEOUT",
        f"the attempt took longer than its run_timeout of {limit:g} s; raise it, or evaluate fewer samples",
        {"run_timeout_seconds": f"{limit:g}", "attempt": str(job.attempt)},
        word.error.log_tail if isinstance(word, Failed) else "",
    )
