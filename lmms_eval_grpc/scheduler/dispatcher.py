"""Starts the jobs that wait, each when its devices are free, and sees every attempt to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from lmms_eval_grpc.executors.base import Executor, ExpectedJob, LooksAhead
from lmms_eval_grpc.jobs.context import enter_job
from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.pace import Pace
from lmms_eval_grpc.scheduler.queue import JobQueue
from lmms_eval_grpc.scheduler.retry import rest
from lmms_eval_grpc.scheduler.run import Run
from lmms_eval_grpc.scheduler.settings import SchedulerSettings
from lmms_eval_grpc.scheduler.slots import Assignment, SlotTable, assign

_LOG = logging.getLogger(__name__)
_RETRY = 1.0
"""Seconds until the next attempt to start a job whose start could not be recorded."""


class Dispatcher:
    """Takes jobs out of the queue, strictly in its order, and runs them. Lives on the scheduler's event loop.

    ``newest_order`` is that of the job that was submitted last; ``job_dir`` tells a job's folder.
    """

    def __init__(
        self,
        queue: JobQueue,
        executor: Executor,
        journal: Journal,
        settings: SchedulerSettings,
        *,
        job_dir: Callable[[str], Path],
        newest_order: Callable[[], int],
    ) -> None:
        self._queue = queue
        self._executor = executor
        self._journal = journal
        self._settings = settings
        self._job_dir = job_dir
        self._newest_order = newest_order
        self._slots = SlotTable(())
        self._runs: dict[str, Run] = {}
        self._carrying: set[asyncio.Task[None]] = set()
        self._resting: set[str] = set()
        self._horizon: tuple[int, int, int] | None = None
        """Place in the queue of the last job that comes next, where those take all devices."""
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._pace = Pace()
        self._stopping = False
        self.starting = asyncio.Lock()
        """Held while a job is started; whoever else holds it keeps all from being started."""
        self.pause_reason: str | None = None
        """Why no job is started for now; None: jobs are."""
        self.starts_none = False
        """Whether no job will be started any more."""
        self.jobs_started = 0
        """Attempts started."""

    @property
    def slots(self) -> SlotTable:
        """The devices and who holds them."""
        return self._slots

    def retry_after(self) -> float:
        """Seconds until a place in the queue is likely to be free."""
        return self._pace.retry_after(len(self._slots.devices))

    def take_devices(self) -> None:
        """Takes over the executor's devices, which has started, and follows their changes from now on."""
        self._slots = SlotTable(self._executor.devices)
        self._executor.when_devices_change(self._change_devices)

    def start(self) -> None:
        """Begins to start jobs."""
        self._task = asyncio.get_running_loop().create_task(self._dispatch())
        self._wake.set()

    def wake(self) -> None:
        """Something has changed: a job may be started now that could not be before."""
        self._wake.set()

    def joined(self, job: Job) -> None:
        """A job has joined the queue. Nearly all do that are submitted faster than they run, far behind what starts now
        and what comes next, and then nothing has changed."""
        if self._horizon is None or self._slots.free or job.queue_key <= self._horizon:
            self._wake.set()

    async def start_none(self) -> None:
        """Starts no job any more, and returns when no start is under way."""
        self.starts_none = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    def cancel(self, job_id: str, reason: str) -> None:
        """Stops a job's worker, if it has one."""
        if (run := self._runs.get(job_id)) is not None:
            run.cancel(reason)

    def server_stops(self) -> None:
        """From now on what ends an attempt is that the server stops."""
        self._stopping = True
        for run in self._runs.values():
            run.server_stops()

    async def see_off(self) -> None:
        """Waits until every attempt has ended, for as long as the settings allow."""
        if not self._carrying:
            return
        _, late = await asyncio.wait(self._carrying, timeout=self._settings.stop_timeout)
        for task in late:
            task.cancel()
        if late:
            _LOG.warning("%d jobs could not be put back into the queue", len(late))
            await asyncio.wait(late)

    def let_rest(self, job: Job) -> None:
        """Keeps a job whose attempt failed from its next one for a while; those behind it go first meanwhile."""

        def wake() -> None:
            self._resting.discard(job.job_id)
            self._wake.set()

        self._resting.add(job.job_id)
        asyncio.get_running_loop().call_later(rest(job.failures), wake)

    def _change_devices(self) -> None:
        self._slots.replace(self._executor.devices)
        self._wake.set()

    async def _dispatch(self) -> None:
        while not self.starts_none:
            await self._wake.wait()
            self._wake.clear()
            try:
                while await self._start_next():
                    pass
            except StoreUnavailable as error:
                _LOG.warning("no job can be started: %s", error)
                asyncio.get_running_loop().call_later(_RETRY, self._wake.set)
            try:
                self._look_ahead()
            except Exception:  # it only saves time, and without this task no job would ever start
                _LOG.exception("the executor cannot be told which jobs come next")

    async def _start_next(self) -> bool:
        """Starts the next job, if there is one that can be; whoever holds the lock keeps all from being started."""
        async with self.starting:
            if self.starts_none or self.pause_reason is not None or (assignment := self._next()) is None:
                return False
            await self._start(assignment)
            return True

    def _next(self) -> Assignment | None:
        return next(assign(self._waiting(), self._slots.devices, self._slots.free), None)

    def _waiting(self) -> Iterator[Job]:
        # A job that is back in the queue because no worker could be had lets go of its devices a moment later.
        return (job for job in self._queue if job.job_id not in self._runs and job.job_id not in self._resting)

    def _look_ahead(self) -> None:
        """Tells the executor which jobs come next: those that would start if every device were free."""
        self._horizon = None
        # By the name of its one method, after every change of any job: to ask a protocol takes longer than the rest.
        expect: Callable[[Sequence[ExpectedJob], Collection[str]], None] | None
        if (expect := getattr(self._executor, LooksAhead.expect.__name__, None)) is None:
            return
        devices = self._slots.devices
        waiting = () if self.starts_none or self.pause_reason is not None else self._waiting()
        upcoming = list(assign(waiting, devices, frozenset(range(len(devices)))))
        expect(
            [
                ExpectedJob(one.job, tuple(devices[index] for index in one.indices), self._job_dir(one.job.job_id))
                for one in upcoming
            ],
            self._runs.keys(),
        )
        if upcoming and sum(len(one.indices) for one in upcoming) == len(devices):
            self._horizon = upcoming[-1].job.queue_key

    async def _start(self, assignment: Assignment) -> None:
        """Records that the job runs, then starts its worker: never the other way round, for a worker that nobody knows
        of could not be found after a crash."""
        job_id = assignment.job.job_id
        devices = self._slots.take(job_id, assignment.indices)
        run = Run(
            job_id,
            devices,
            self._job_dir(job_id),
            executor=self._executor,
            journal=self._journal,
            progress_interval=self._settings.progress_interval,
            newest_order=self._newest_order,
            max_attempts=self._settings.max_attempts,
        )
        self._runs[job_id] = run
        try:
            job = await self._journal.enter(job_id, JobState.RUNNING, devices=tuple(device.name for device in devices))
        except BaseException as error:
            self._let_go(job_id)
            match error:
                case IllegalTransition():
                    return  # It was cancelled in between.
                case StoreUnavailable():
                    raise  # No job can be started now.
                case Exception():
                    await self._set_aside(job_id, error)
                    return
                case _:
                    raise
        self.jobs_started += 1
        if self._stopping:
            run.server_stops()
        task = asyncio.get_running_loop().create_task(self._carry(run, job))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, run: Run, job: Job) -> None:
        began = time.monotonic()
        enter_job(job)
        try:
            await run.carry(job)
        except Exception:
            _LOG.exception("lost track of job %s", job.job_id)
            await self._give_up(job.job_id)
        finally:
            self._let_go(job.job_id)
            self._wake.set()
            self._pace.took(time.monotonic() - began)

    async def _set_aside(self, job_id: str, problem: Exception) -> None:
        """Ends a job that a bug keeps from being started, or at least takes it out of the way of those behind it.
        Raises StoreUnavailable: that is no fault of the job."""
        _LOG.error("could not start job %s", job_id, exc_info=problem)
        message = f"the server could not start the job: {type(problem).__name__}: {problem}"
        try:
            await self._end(job_id, message)
        except StoreUnavailable:
            raise
        except Exception:
            _LOG.exception("job %s waits until the server is restarted", job_id)
            self._queue.discard(job_id)

    async def _give_up(self, job_id: str) -> None:
        """Ends a job that a bug would otherwise leave running for ever."""
        try:
            await self._end(job_id, "the server lost track of the job; see its log")
        except Exception:
            _LOG.exception("job %s stays as it is until the server is restarted", job_id)

    async def _end(self, job_id: str, message: str) -> None:
        error = JobError(JobErrorCode.INTERNAL, "SCHEDULER_FAILED", message)
        await self._journal.enter(job_id, JobState.FAILED, error=error)

    def _let_go(self, job_id: str) -> None:
        self._runs.pop(job_id, None)
        self._slots.release(job_id)
