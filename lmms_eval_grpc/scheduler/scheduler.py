"""Takes jobs in, decides what runs when and on which devices, and sees every job to its end."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from lmms_eval_grpc.executors.base import Executor, ExpectedJob, LooksAhead
from lmms_eval_grpc.jobs.context import enter_job
from lmms_eval_grpc.jobs.errors import (
    InvalidRequest,
    NotAccepting,
    QueueFull,
    QueuePaused,
    ServiceError,
    StoreUnavailable,
)
from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.secrets import Secrets, clear_others
from lmms_eval_grpc.jobs.spec import JobSpec
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from lmms_eval_grpc.scheduler.carry import carry_through
from lmms_eval_grpc.scheduler.feed import QueueFeed
from lmms_eval_grpc.scheduler.intake import Intake
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.pace import Pace
from lmms_eval_grpc.scheduler.pause import PauseFile
from lmms_eval_grpc.scheduler.queue import JobQueue, QueueView
from lmms_eval_grpc.scheduler.quotas import Quotas
from lmms_eval_grpc.scheduler.recovery import recover
from lmms_eval_grpc.scheduler.retention import Collected, Retention
from lmms_eval_grpc.scheduler.retry import rest
from lmms_eval_grpc.scheduler.run import Run
from lmms_eval_grpc.scheduler.settings import SchedulerSettings
from lmms_eval_grpc.scheduler.slots import Assignment, SlotTable, assign, unfit
from lmms_eval_grpc.store.base import JobStore

_LOG = logging.getLogger(__name__)
_DISPATCH_RETRY = 1.0
"""Seconds until the next attempt to start a job whose start could not be recorded."""
_RETRY_AFTER_RESTART = 5.0


class Scheduler:
    """The one place where a job changes its state. Lives on one event loop.

    It starts and stops its executor; the store must be open before :meth:`start` and stay open until :meth:`stop` has
    returned. What the queue holds follows the journal: a job is in it exactly while its durable state is QUEUED.
    """

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        journal: Journal,
        settings: SchedulerSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._executor = executor
        self._journal = journal
        self._settings = settings
        self._quotas = Quotas(settings.max_jobs_per_owner, settings.max_submissions_per_minute)
        self._intake = Intake(store, journal, self._quotas, self.job_dir, clock)
        self._queue = JobQueue()
        self._slots = SlotTable(())
        self._feed = QueueFeed()
        self._retention = Retention(store, journal, self.job_dir, settings, clock)
        self._runs: dict[str, Run] = {}
        self._carrying: set[asyncio.Task[None]] = set()
        self._running: dict[str, None] = {}
        self._resting: set[str] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._starting = asyncio.Lock()
        self._pause_file = PauseFile(settings.pause_file)
        self._pause_reason: str | None = None
        self._accepting = False
        self._draining = False
        self._starts_none = False
        self._stopping = False
        self._horizon: tuple[int, int, int] | None = None
        """Place in the queue of the last job that comes next, where those take all devices."""
        self._jobs_started = 0
        self._pace = Pace()

    @property
    def accepting(self) -> bool:
        """Whether new jobs are taken in."""
        return self._accepting

    @property
    def jobs_started(self) -> int:
        """Attempts started by this instance."""
        return self._jobs_started

    @property
    def queue_changes(self) -> QueueFeed:
        """The changes of the queue, for those who follow it."""
        return self._feed

    def job_dir(self, job_id: str) -> Path:
        """The job's folder. It may not exist yet."""
        return self._settings.jobs_dir / job_id

    def position(self, job_id: str) -> int | None:
        """Zero-based place in the queue; None for a job that does not wait."""
        return self._queue.position(job_id)

    def queue(self) -> QueueView:
        """The queue now."""
        return QueueView(
            revision=self._feed.revision,
            accepting=self._accepting,
            pause_reason=self._pause_reason,
            draining=self._draining,
            running=tuple(self._running),
            queued=self._queue.ids(),
            capacity=self._settings.max_queued_jobs,
            slots=self._slots.view(),
        )

    @property
    def busy(self) -> bool:
        """Whether a job runs, or one that waits will still be started."""
        return bool(self._running) or (not self._starts_none and bool(len(self._queue) + self._intake.under_way))

    async def counts(self) -> Mapping[JobState, int]:
        """Number of kept jobs by state. Raises StoreUnavailable."""
        return await self._store.counts()

    async def start(self) -> None:
        """Starts the executor, recovers what an earlier server left behind, and begins to take and run jobs."""
        await self._executor.start()
        self._slots = SlotTable(self._executor.devices)
        await self._intake.start()
        self._pause_reason = await asyncio.to_thread(self._pause_file.read)
        if self._pause_reason is not None:
            _LOG.warning("the queue is paused, so no job is started until it is resumed: %s", self._pause_reason)
        self._executor.when_devices_change(self._change_devices)
        for job in await recover(self._store, self._executor, self._journal, self.job_dir, self._settings.max_attempts):
            self._queue.add(job)
            self._quotas.opened(job.owner, job.job_id)
        unfinished = await self._store.unfinished()
        kept = {*(job.job_id for job in unfinished.jobs), *unfinished.unreadable}
        await asyncio.to_thread(clear_others, self._settings.jobs_dir, kept)
        self._journal.listen(self._follow)
        self._retention.start()
        self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())
        self._accepting = True
        self._wake.set()

    async def pause(self, reason: str) -> None:
        """Starts no further jobs, also after a restart, until :meth:`resume`; returns when no start is under way any
        more. Raises StoreUnavailable: nothing has changed."""
        await carry_through(self._set_pause(reason))

    async def resume(self) -> None:
        """Starts jobs again. Raises StoreUnavailable: nothing has changed."""
        await carry_through(self._set_pause(None))

    async def set_priority(self, job_id: str, priority: int) -> Job:
        """Moves a queued job within the queue; its log has no event of it.

        Raises:
            JobNotFound: there is no such job.
            NotQueued: it does not wait any more.
            StoreUnavailable: nothing has changed.
        """
        return await carry_through(self._set_priority(job_id, priority))

    async def collect_garbage(self, keep: int | None, older_than: float | None, dry_run: bool) -> Collected:
        """See :meth:`Retention.collect`."""
        return await carry_through(self._retention.collect(keep, older_than, dry_run=dry_run))

    async def drain(self, *, finish_queued: bool = False) -> None:
        """Refuses new jobs from now on. Unless ``finish_queued``, starts none of those that wait either; those that run
        go on. Returns when no start is under way any more. A later call may be stricter, and is never laxer.

        Raises:
            QueuePaused: the queued jobs that are to be finished cannot start.
        """
        if finish_queued and self._pause_reason is not None and len(self._queue) and not self._starts_none:
            raise QueuePaused(self._pause_reason)
        self._accepting = False
        if not self._draining:
            self._draining = True
            self._feed.renew()
        if finish_queued:
            return
        self._starts_none = True
        self._wake.set()
        if self._dispatcher is not None:
            await asyncio.wait({self._dispatcher})

    async def stop(self) -> None:
        """Drains, has every worker killed, and puts the jobs that ran back into the queue, where the next server finds
        them. One that cannot be put back in time stays RUNNING in the store; the next server requeues it too."""
        self._stopping = True
        for run in self._runs.values():
            run.server_stops()
        await self.drain()
        try:
            await self._executor.stop()
        except Exception:
            _LOG.exception("the executor did not stop as it should")
        if self._carrying:
            _, late = await asyncio.wait(self._carrying, timeout=self._settings.stop_timeout)
            for task in late:
                task.cancel()
            if late:
                _LOG.warning("%d jobs could not be put back into the queue", len(late))
                await asyncio.wait(late)
        await self._retention.close()
        self._feed.close()

    async def submit(
        self,
        spec: JobSpec,
        *,
        request_id: str = "",
        request_digest: str = "",
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        owner: str = "",
        secrets: Secrets | None = None,
    ) -> Job:
        """Takes a job in and returns it once it is durable. A request that was made before gets the job that it made
        then, as it is now, also when new jobs are refused.

        Raises:
            RequestIdConflict: the request id was used with another digest.
            InvalidRequest: no device of this server fits.
            NotAccepting: the server starts or drains.
            QueueFull: as many jobs wait as may.
            TooManyJobs: the owner has as many that have not ended as it may.
            TooManySubmissions: the owner submits faster than it may.
            StoreUnavailable: nothing was accepted.

        ``secrets`` is what ``spec`` leaves out; it is kept in the job's folder until the job has ended.
        """
        refusal = functools.partial(self._refusal, spec, owner)
        taken = self._intake.take(
            spec, request_id, request_digest, dict(labels or {}), priority, owner, refusal, secrets or Secrets()
        )
        return await carry_through(taken)

    async def cancel(self, job_id: str, reason: str) -> Job:
        """Cancels a job and returns it as it then is: CANCELLED if it waited, CANCELLING if its worker has to be
        stopped first, unchanged if it has ended.

        Raises:
            JobNotFound: there is no such job.
            StoreUnavailable: the cancellation could not be recorded; the job goes on.
        """
        return await carry_through(self._cancel(job_id, reason))

    def _refusal(self, spec: JobSpec, owner: str) -> ServiceError | None:
        if not self._accepting:
            why = "the server is being stopped" if self._draining else "the server is starting"
            return NotAccepting(f"{why} and takes no new jobs; try again", _RETRY_AFTER_RESTART)
        if (violation := unfit(spec, self._slots.devices, elastic=self._executor.elastic)) is not None:
            return InvalidRequest([violation])
        retry_after = self._pace.retry_after(len(self._slots.devices))
        if len(self._queue) + self._intake.under_way >= self._settings.max_queued_jobs:
            return QueueFull(self._settings.max_queued_jobs, retry_after)
        return self._quotas.refusal(owner, retry_after)

    async def _cancel(self, job_id: str, reason: str) -> Job:
        while True:
            job = await self._journal.job(job_id)
            try:
                match job.state:
                    case JobState.QUEUED:
                        return await self._journal.enter(job_id, JobState.CANCELLED, reason=reason)
                    case JobState.RUNNING:
                        job = await self._journal.enter(job_id, JobState.CANCELLING, reason=reason)
                        if (run := self._runs.get(job_id)) is not None:
                            run.cancel(reason)
                        return job
                    case _:
                        return job
            except IllegalTransition:
                continue  # It has moved on in between.

    async def _set_pause(self, reason: str | None) -> None:
        async with self._starting:
            if reason == self._pause_reason:
                return
            await asyncio.to_thread(self._pause_file.write, reason)
            self._pause_reason = reason
            self._feed.renew()
            self._wake.set()

    async def _set_priority(self, job_id: str, priority: int) -> Job:
        job = await self._journal.reprioritize(job_id, priority)
        # The same step of the event loop as that in which it became visible.
        if job_id in self._queue:
            self._queue.discard(job_id)
            self._queue.add(job)
            self._feed.renew()
            self._wake.set()
        return job

    def _follow(self, job: Job, event: JobEvent) -> None:
        """Keeps the queue in step with the journal."""
        change = event.body
        if not isinstance(change, StateChange):
            return
        matters = True
        if change.state is JobState.QUEUED:
            self._intake.queued(job.job_id)
            self._quotas.opened(job.owner, job.job_id)
            self._queue.add(job)
            matters = not self._is_beyond_horizon(job)
            if change.error is not None:
                self._let_rest(job)
        else:
            self._queue.discard(job.job_id)
        if change.state is JobState.RUNNING:
            self._running[job.job_id] = None
        elif change.state is not JobState.CANCELLING:
            self._running.pop(job.job_id, None)
        self._feed.publish(job.job_id, change.previous, change.state, event.time)
        if change.state.ended:
            self._quotas.ended(job.owner, job.job_id)
            self._retention.ended(job.job_id)
        if matters:
            self._wake.set()

    def _change_devices(self) -> None:
        self._slots.replace(self._executor.devices)
        self._wake.set()

    async def _dispatch(self) -> None:
        while not self._starts_none:
            await self._wake.wait()
            self._wake.clear()
            try:
                while await self._start_next():
                    pass
            except StoreUnavailable as error:
                _LOG.warning("no job can be started: %s", error)
                asyncio.get_running_loop().call_later(_DISPATCH_RETRY, self._wake.set)
            try:
                self._look_ahead()
            except Exception:  # it only saves time, and without this task no job would ever start
                _LOG.exception("the executor cannot be told which jobs come next")

    async def _start_next(self) -> bool:
        """Starts the next job, if there is one that can be; whoever holds the lock keeps all from being started."""
        async with self._starting:
            if self._starts_none or self._pause_reason is not None or (assignment := self._next()) is None:
                return False
            await self._start(assignment)
            return True

    def _next(self) -> Assignment | None:
        return next(assign(self._waiting(), self._slots.devices, self._slots.free), None)

    def _waiting(self) -> Iterator[Job]:
        # A job that is back in the queue because no worker could be had lets go of its devices a moment later.
        return (job for job in self._queue if job.job_id not in self._runs and job.job_id not in self._resting)

    def _is_beyond_horizon(self, job: Job) -> bool:
        """Whether a job that has joined the queue changes neither what starts now nor what comes next: as nearly all do
        of those that are submitted faster than they run."""
        return self._horizon is not None and not self._slots.free and job.queue_key > self._horizon

    def _look_ahead(self) -> None:
        """Tells the executor which jobs come next: those that would start if every device were free."""
        self._horizon = None
        # By the name of its one method, after every change of any job: to ask a protocol takes longer than the rest.
        expect: Callable[[Sequence[ExpectedJob], Collection[str]], None] | None
        if (expect := getattr(self._executor, LooksAhead.expect.__name__, None)) is None:
            return
        devices = self._slots.devices
        upcoming = (
            []
            if self._starts_none or self._pause_reason is not None
            else list(assign(self._waiting(), devices, frozenset(range(len(devices)))))
        )
        expect(
            [
                ExpectedJob(one.job, tuple(devices[index] for index in one.indices), self.job_dir(one.job.job_id))
                for one in upcoming
            ],
            self._runs.keys(),
        )
        if upcoming and sum(len(one.indices) for one in upcoming) == len(devices):
            self._horizon = upcoming[-1].job.queue_key

    def _let_rest(self, job: Job) -> None:
        """Keeps a job whose attempt failed from its next one for a while; those behind it go first meanwhile."""

        def wake() -> None:
            self._resting.discard(job.job_id)
            self._wake.set()

        self._resting.add(job.job_id)
        asyncio.get_running_loop().call_later(rest(job.failures), wake)

    async def _start(self, assignment: Assignment) -> None:
        """Records that the job runs, then starts its worker: never the other way round, for a worker that nobody knows
        of could not be found after a crash."""
        job_id = assignment.job.job_id
        devices = self._slots.take(job_id, assignment.indices)
        run = Run(
            job_id,
            devices,
            self.job_dir(job_id),
            executor=self._executor,
            journal=self._journal,
            progress_interval=self._settings.progress_interval,
            newest_order=lambda: self._intake.newest_order,
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
        self._jobs_started += 1
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
