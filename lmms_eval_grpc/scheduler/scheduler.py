"""Takes jobs in, decides what runs when and on which devices, and sees every job to its end."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.jobs.errors import (
    InvalidRequest,
    NotAccepting,
    QueueFull,
    QueuePaused,
    ServiceError,
)
from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.secrets import Secrets, clear_others
from lmms_eval_grpc.jobs.spec import JobSpec
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from lmms_eval_grpc.scheduler.carry import carry_through
from lmms_eval_grpc.scheduler.dispatcher import Dispatcher
from lmms_eval_grpc.scheduler.feed import QueueFeed
from lmms_eval_grpc.scheduler.intake import Intake
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.pause import PauseFile
from lmms_eval_grpc.scheduler.queue import JobQueue, QueueView
from lmms_eval_grpc.scheduler.quotas import Quotas
from lmms_eval_grpc.scheduler.recovery import recover
from lmms_eval_grpc.scheduler.retention import Collected, Retention
from lmms_eval_grpc.scheduler.settings import SchedulerSettings
from lmms_eval_grpc.scheduler.slots import SlotView, unfit
from lmms_eval_grpc.store.base import JobStore

_LOG = logging.getLogger(__name__)
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
        self._feed = QueueFeed()
        self._retention = Retention(store, journal, self.job_dir, settings, clock)
        self._dispatcher = Dispatcher(
            self._queue,
            executor,
            journal,
            settings,
            job_dir=self.job_dir,
            newest_order=lambda: self._intake.newest_order,
        )
        self._running: dict[str, None] = {}
        self._pause_file = PauseFile(settings.pause_file)
        self._accepting = False
        self._draining = False

    @property
    def accepting(self) -> bool:
        """Whether new jobs are taken in. While the store is in trouble they are tried, but hardly can be."""
        return self._accepting and self._store.trouble is None

    @property
    def jobs_started(self) -> int:
        """Attempts started by this instance."""
        return self._dispatcher.jobs_started

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
        """The queue now: a job is in one place of it, by its durable state."""
        return QueueView(
            revision=self._feed.revision,
            accepting=self.accepting,
            trouble=self._store.trouble,
            pause_reason=self._dispatcher.pause_reason,
            draining=self._draining,
            running=tuple(self._running),
            queued=self._queue.ids(),
            capacity=self._settings.max_queued_jobs,
            slots=self._slots(),
        )

    def _slots(self) -> tuple[SlotView, ...]:
        """The devices, held by jobs that run only: a job has its devices already while its start is being recorded, and
        still for a moment when it has ended or waits again."""
        return tuple(
            slot if slot.job_id in self._running else SlotView(slot.device, None)
            for slot in self._dispatcher.slots.view()
        )

    @property
    def busy(self) -> bool:
        """Whether a job runs, or one that waits will still be started."""
        return bool(self._running) or (
            not self._dispatcher.starts_none and bool(len(self._queue) + self._intake.under_way)
        )

    async def counts(self) -> Mapping[JobState, int]:
        """Number of kept jobs by state. Raises StoreUnavailable."""
        return await self._store.counts()

    async def start(self) -> None:
        """Starts the executor, recovers what an earlier server left behind, and begins to take and run jobs."""
        await self._executor.start()
        self._dispatcher.take_devices()
        await self._intake.start()
        self._dispatcher.pause_reason = paused = await asyncio.to_thread(self._pause_file.read)
        if paused is not None:
            _LOG.warning("the queue is paused, so no job is started until it is resumed: %s", paused)
        for job in await recover(self._store, self._executor, self._journal, self.job_dir, self._settings.max_attempts):
            self._queue.add(job)
            self._quotas.opened(job.owner, job.job_id)
        unfinished = await self._store.unfinished()
        kept = {*(job.job_id for job in unfinished.jobs), *unfinished.unreadable}
        await asyncio.to_thread(clear_others, self._settings.jobs_dir, kept)
        self._journal.listen(self._follow)
        self._store.when_trouble_changes(self._feed.renew)
        self._retention.start()
        self._dispatcher.start()
        self._accepting = True

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
        paused = self._dispatcher.pause_reason
        if finish_queued and paused is not None and len(self._queue) and not self._dispatcher.starts_none:
            raise QueuePaused(paused)
        self._accepting = False
        if not self._draining:
            self._draining = True
            self._feed.renew()
        if not finish_queued:
            await self._dispatcher.start_none()

    async def stop(self) -> None:
        """Drains, has every worker killed, and puts the jobs that ran back into the queue, where the next server finds
        them. One that cannot be put back in time stays RUNNING in the store; the next server requeues it too."""
        self._dispatcher.server_stops()
        await self.drain()
        try:
            await self._executor.stop()
        except Exception:
            _LOG.exception("the executor did not stop as it should")
        await self._dispatcher.see_off()
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
        if (violation := unfit(spec, self._dispatcher.slots.devices, elastic=self._executor.elastic)) is not None:
            return InvalidRequest([violation])
        retry_after = self._dispatcher.retry_after()
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
                        self._dispatcher.cancel(job_id, reason)
                        return job
                    case _:
                        return job
            except IllegalTransition:
                continue  # It has moved on in between.

    async def _set_pause(self, reason: str | None) -> None:
        async with self._dispatcher.starting:
            if reason == self._dispatcher.pause_reason:
                return
            await asyncio.to_thread(self._pause_file.write, reason)
            self._dispatcher.pause_reason = reason
            self._feed.renew()
            self._dispatcher.wake()

    async def _set_priority(self, job_id: str, priority: int) -> Job:
        job = await self._journal.reprioritize(job_id, priority)
        # The same step of the event loop as that in which it became visible.
        if job_id in self._queue:
            self._queue.discard(job_id)
            self._queue.add(job)
            self._feed.renew()
            self._dispatcher.wake()
        return job

    def _follow(self, job: Job, event: JobEvent) -> None:
        """Keeps the queue in step with the journal."""
        change = event.body
        if not isinstance(change, StateChange):
            return
        if change.state is JobState.QUEUED:
            self._intake.queued(job.job_id)
            self._quotas.opened(job.owner, job.job_id)
            self._queue.add(job)
            self._dispatcher.joined(job)
            if change.error is not None:
                self._dispatcher.let_rest(job)
        else:
            self._queue.discard(job.job_id)
            self._dispatcher.wake()
        if change.state is JobState.RUNNING:
            self._running[job.job_id] = None
        elif change.state is not JobState.CANCELLING:
            self._running.pop(job.job_id, None)
        self._feed.publish(job.job_id, change.previous, change.state, event.time)
        if change.state.ended:
            self._quotas.ended(job.owner, job.job_id)
            self._retention.ended(job.job_id)
