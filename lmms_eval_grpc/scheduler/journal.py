"""Every job's append-only log: one writer, durable before it is visible, followed without queues.

A job's events get the sequences 1, 2, 3… while its lock is held, are written to the store, and only then become part of
what readers see; readers and writers share one event loop, so a snapshot and its cursor belong together as long as the
reader does not await in between. When a write fails, nothing has changed: the sequence is given to the next event.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import dataclasses
import functools
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from operator import attrgetter
from typing import Any

from lmms_eval_grpc.jobs.errors import JobNotFound, NotQueued, SequenceOutOfRange
from lmms_eval_grpc.jobs.events import EventBody, JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from lmms_eval_grpc.scheduler.carry import carry_through, wait_for
from lmms_eval_grpc.scheduler.signal import Alarm, Signal, Turns
from lmms_eval_grpc.store.base import JobStore

_LOG = logging.getLogger(__name__)

_sequence_of = attrgetter("sequence")

Listener = Callable[[Job, JobEvent], None]


class JobLog:
    """What readers see of one job: its durable state and its events. A reader keeps a sequence, the log keeps nothing
    for it."""

    def __init__(self, job: Job, events: Sequence[JobEvent], turns: Turns) -> None:
        self._job = job
        self._events = list(events)
        self._signal = Signal(turns)
        self._closed = False
        self._lock = asyncio.Lock()

    @property
    def job(self) -> Job:
        """The job after the newest durable event."""
        return self._job

    @property
    def closed(self) -> bool:
        """Whether the journal was closed; nothing more will be told here."""
        return self._closed

    def after(self, sequence: int) -> list[JobEvent]:
        """The events with a larger sequence, in order; superseded progress is left out.

        Raises:
            SequenceOutOfRange: the log is not that far yet.
        """
        if sequence > self._job.sequence:
            raise SequenceOutOfRange(self._job.job_id, sequence, self._job.sequence)
        if sequence == self._job.sequence:
            return []
        return self._events[bisect.bisect_right(self._events, sequence, key=_sequence_of) :]

    async def wait_beyond(self, sequence: int, timeout: float | None, alarm: Alarm | None = None) -> bool:
        """Whether there is an event after ``sequence`` within ``timeout`` seconds (None: however long it takes).
        ``alarm``: of a caller that waits often.

        False at once when the journal is closed. An ended job has no further events: look at ``job.state.ended`` first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._job.sequence <= sequence:
            remaining = None if deadline is None else deadline - time.monotonic()
            if self._closed or (remaining is not None and remaining <= 0):
                return False
            await self._signal.wait(remaining, alarm)
        return True

    def _publish(self, job: Job, event: JobEvent) -> None:
        if event.supersedable:
            self._events = [kept for kept in self._events if not kept.supersedable]
        self._events.append(event)
        self._job = job
        self._signal.notify()

    def _close(self) -> None:
        self._closed = True
        self._signal.notify()


class Journal:
    """The logs of all jobs. Those of unfinished jobs stay in memory once touched; of ended ones the last used few do,
    and the others are read from the store when asked for."""

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.time, *, kept_ended: int = 32) -> None:
        self._store = store
        self._clock = clock
        self._kept_ended = kept_ended
        self._live: dict[str, JobLog] = {}
        self._ended: OrderedDict[str, JobLog] = OrderedDict()
        self._loading: dict[str, asyncio.Task[JobLog]] = {}
        self._withdrawn: set[str] = set()
        self._logs: weakref.WeakSet[JobLog] = weakref.WeakSet()
        self._listeners: list[Listener] = []
        self.turns = Turns()
        """Of all followers of all logs: in which they are woken, and which one takes that finds more at once."""
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether watchers have been sent away."""
        return self._closed

    def listen(self, listener: Listener) -> None:
        """Calls ``listener(job, event)`` with every event that becomes durable from now on, in order, in the step of
        the event loop in which it becomes visible. It must be quick; what it raises is for the log: the event has
        happened, and the other listeners are told."""
        self._listeners.append(listener)

    async def create(self, job: Job) -> Job:
        """Makes a new job durable with the first event of its log. ``job`` is as submitted: queued, sequence 0.

        Raises:
            StoreUnavailable: nothing was accepted.
            RequestIdConflict: its request id is taken.
        """
        return await carry_through(self._create(job))

    async def record(self, job_id: str, body: EventBody, **changes: Any) -> Job:
        """Adds an event to the log of an unfinished job and returns the job after it, once both are durable.

        ``changes`` are further fields of the job that change with the event, such as ``result``. A caller that is
        cancelled stops waiting; the write goes on.

        Raises:
            JobNotFound: there is no such job.
            IllegalTransition: the job has ended, or is not in the state that a state change says it leaves.
            StoreUnavailable: nothing was recorded.
        """
        return await carry_through(self._append(job_id, lambda _: body, changes))

    async def enter(
        self, job_id: str, state: JobState, *, reason: str = "", error: JobError | None = None, **changes: Any
    ) -> Job:
        """Moves the job from whatever state it is in to ``state``; RUNNING counts an attempt. Otherwise as
        :meth:`record`; raises IllegalTransition when the state it is in does not lead there."""

        def change(job: Job) -> StateChange:
            attempt = job.attempt + 1 if state is JobState.RUNNING else job.attempt
            return StateChange(job.state, state, attempt, reason, error)

        return await carry_through(self._append(job_id, change, changes))

    async def reprioritize(self, job_id: str, priority: int) -> Job:
        """Gives a queued job another priority and returns it, once that is durable. No event tells of it. To be carried
        through by the caller.

        Raises:
            JobNotFound: there is no such job.
            NotQueued: it does not wait.
            StoreUnavailable: nothing was changed.
        """
        log = await self.log(job_id)
        async with log._lock:
            if log.job.state is not JobState.QUEUED:
                raise NotQueued(job_id, log.job.state)
            job = dataclasses.replace(log.job, priority=priority)
            await self._store.amend(job)
            log._job = job
        return job

    async def job(self, job_id: str) -> Job:
        """The job as it durably is. Raises JobNotFound."""
        return (await self.log(job_id)).job

    async def log(self, job_id: str) -> JobLog:
        """The log of a job. Raises JobNotFound, JobUnreadable, StoreUnavailable."""
        if job_id in self._withdrawn:
            raise JobNotFound(job_id)
        if (log := self._live.get(job_id)) is not None:
            return log
        if (log := self._ended.get(job_id)) is not None:
            self._ended.move_to_end(job_id)
            return log
        # Everybody who asks for the same job gets the same log: two would be two writers.
        loading = self._loading.get(job_id)
        if loading is None:
            loading = asyncio.get_running_loop().create_task(self._load(job_id))
            self._loading[job_id] = loading
            loading.add_done_callback(functools.partial(self._loaded, job_id))
        return await wait_for(loading)

    @contextlib.contextmanager
    def withdraw(self, job_ids: Collection[str]) -> Iterator[None]:
        """While ended jobs are removed: they cannot be found any more, and nothing of them is kept.

        Who reads a job's files and finds one missing asks here whether the job is still there, so this comes before the
        first file goes. Afterwards it is the store again that says what there is.
        """
        for job_id in job_ids:
            self._ended.pop(job_id, None)
            self._loading.pop(job_id, None)  # Those who wait for it get it, but it is not kept.
        self._withdrawn.update(job_ids)
        try:
            yield
        finally:
            self._withdrawn.difference_update(job_ids)

    def close(self) -> None:
        """Wakes every watcher for good; ``closed`` tells them why. Jobs can still be written: a server that stops puts
        them back into the queue after its watchers have gone."""
        self._closed = True
        for log in list(self._logs):
            log._close()

    async def _create(self, job: Job) -> Job:
        event = JobEvent(1, job.create_time, StateChange(None, job.state, job.attempt))
        created = job.after(event)
        await self._store.insert(created, event)
        log = JobLog(created, (), self.turns)
        self._keep(log)
        self._publish(log, created, event)
        return created

    async def _append(self, job_id: str, make: Callable[[Job], EventBody], changes: dict[str, Any]) -> Job:
        log = await self.log(job_id)
        async with log._lock:
            body = make(log.job)
            _check(log.job, body)
            # The wall clock may be set back; a log's times do not go back.
            at = max(self._clock(), log._events[-1].time if log._events else 0.0)
            event = JobEvent(log.job.sequence + 1, at, body)
            job = dataclasses.replace(log.job.after(event), **changes)
            await self._store.append(job, event)
            self._publish(log, job, event)
        return job

    def _publish(self, log: JobLog, job: Job, event: JobEvent) -> None:
        log._publish(job, event)
        if job.state.ended:
            self._live.pop(job.job_id, None)
            self._keep(log)
        for listener in self._listeners:
            try:
                listener(job, event)
            except Exception:
                _LOG.exception("a listener failed at event %d of job %s", event.sequence, job.job_id)

    def _keep(self, log: JobLog) -> None:
        self._logs.add(log)
        if self._closed:
            log._close()
        if not log.job.state.ended:
            self._live[log.job.job_id] = log
            return
        self._ended[log.job.job_id] = log
        self._ended.move_to_end(log.job.job_id)
        while len(self._ended) > self._kept_ended:
            self._ended.popitem(last=False)

    def _loaded(self, job_id: str, loading: asyncio.Task[JobLog]) -> None:
        if self._loading.get(job_id) is loading:
            del self._loading[job_id]

    async def _load(self, job_id: str) -> JobLog:
        job = await self._store.get(job_id)
        events = [] if job is None else await self._store.events(job_id)
        if job is None or not events:
            # No events: it was removed between the two reads.
            raise JobNotFound(job_id)
        log = JobLog(job, events, self.turns)
        if self._loading.get(job_id) is asyncio.current_task():
            self._keep(log)
        return log


def _check(job: Job, body: EventBody) -> None:
    if job.state.ended:
        raise IllegalTransition(f"job {job.job_id} has ended ({job.state}); nothing can follow in its log")
    if isinstance(body, StateChange) and body.previous is not job.state:
        raise IllegalTransition(f"job {job.job_id} is {job.state}, not {body.previous}")
