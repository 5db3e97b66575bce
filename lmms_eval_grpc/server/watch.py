"""WatchJob and WatchQueue: a follower is a cursor and a wait; it owns no queue and delays nobody."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc.aio

from lmms_eval_grpc.jobs.errors import InvalidRequest, NotAccepting, Violation
from lmms_eval_grpc.scheduler.signal import Alarm
from lmms_eval_grpc.server.convert_catalog import write_queue, write_queue_change
from lmms_eval_grpc.server.convert_job import readable, shows_results, write_event, write_job
from lmms_eval_grpc.server.convert_values import read_duration, write_time
from lmms_eval_grpc.v1.evaluation_service_pb2 import Heartbeat, QueueSnapshot, WatchJobResponse, WatchQueueResponse

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from lmms_eval_grpc.jobs.events import JobEvent
    from lmms_eval_grpc.scheduler.journal import JobLog, Journal
    from lmms_eval_grpc.scheduler.scheduler import Scheduler
    from lmms_eval_grpc.v1.evaluation_service_pb2 import WatchJobRequest, WatchQueueRequest

DEFAULT_HEARTBEAT = 15.0
SHORTEST_HEARTBEAT = 1.0
LONGEST_HEARTBEAT = 300.0

RETRY_AFTER_STOP = 2.0
"""Seconds after which those who are sent away by a stopping server should try again."""

Context = grpc.aio.ServicerContext[Any, Any]


class EventMessages:
    """The messages of the newest events, in bytes: all followers of a job are told the same."""

    def __init__(self, kept: int = 256, largest: int = 65_536) -> None:
        """Keeps so many, of at most so many bytes each."""
        self._kept = kept
        self._largest = largest
        # By identity: an event is never changed, and to compare two of them would take longer than to write one.
        self._known: dict[int, tuple[JobEvent, bytes]] = {}

    def message(self, job_id: str, event: JobEvent) -> bytes:
        """A serialized WatchJobResponse with this event of a job. Raises JobUnreadable."""
        known = self._known.get(id(event))
        if known is not None and known[0] is event:
            return known[1]
        with readable(job_id):
            message = WatchJobResponse(event=write_event(event)).SerializeToString()
        if len(message) <= self._largest:
            while len(self._known) >= self._kept:
                del self._known[next(iter(self._known))]
            self._known[id(event)] = (event, message)
        return message


_EVENTS = EventMessages()


def serialize(message: WatchJobResponse | bytes) -> bytes:
    """What WatchJob writes, as it goes over the wire."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def stopping() -> NotAccepting:
    """What the followers of a server that stops are told."""
    return NotAccepting("the server is being stopped; follow again when it is back", RETRY_AFTER_STOP)


async def watch_job(request: WatchJobRequest, context: Context, journal: Journal, scheduler: Scheduler) -> None:
    """Writes a snapshot (unless the request says where to resume), then every event, until the job has ended.

    Raises:
        JobNotFound: there is no such job.
        SequenceOutOfRange: the log is not that far yet.
        NotAccepting: the server is being stopped.
    """
    heartbeat = _heartbeat_interval(request.heartbeat_interval if request.HasField("heartbeat_interval") else None)
    log = await journal.log(request.job_id)
    if request.HasField("after_sequence"):
        cursor = request.after_sequence
        if cursor < 0:
            raise InvalidRequest([Violation("after_sequence", f"{cursor} is negative; 0 stands for all events")])
        log.after(cursor)
    else:
        # Snapshot and cursor belong together: no await in between.
        job = log.job
        cursor = job.sequence
        snapshot = write_job(
            job, full=shows_results(request.view, default=True), queue_position=scheduler.position(job.job_id)
        )
        await context.write(WatchJobResponse(snapshot=snapshot))
    alarm = Alarm()
    try:
        # In a task of its own, for each step would go through all that is around the handler.
        await asyncio.create_task(_follow(log, cursor, heartbeat, alarm, context, journal))
    finally:
        alarm.cancel()


async def _follow(log: JobLog, cursor: int, heartbeat: float, alarm: Alarm, context: Context, journal: Journal) -> None:
    """Writes all events after ``cursor``. Once per event of every watcher: as little as can be.

    The fewer writes are under way, the sooner grpc.aio, which serves one thing after the other, is at a call.
    """
    turns = journal.turns
    slow = False
    while True:
        for event in log.after(cursor):
            message = _EVENTS.message(log.job.job_id, event)
            begun = turns.begin(counts=not slow)
            try:
                await context.write(message)
            finally:
                slow = turns.end(begun)
            cursor = event.sequence
        if log.job.state.ended and cursor >= log.job.sequence:
            return
        if journal.closed:
            raise stopping()
        if log.job.sequence > cursor:
            # There was more during the write. On a server that is behind all followers find that, all the time.
            await turns.take()
        elif not await log.wait_beyond(cursor, heartbeat, alarm) and not journal.closed:
            # Those who were told the last event together are all due together, too.
            await turns.take()
            if log.job.sequence == cursor and not journal.closed:
                begun = turns.begin(counts=not slow)
                try:
                    await context.write(WatchJobResponse(heartbeat=_heartbeat(cursor)))
                finally:
                    slow = turns.end(begun)


async def watch_queue(request: WatchQueueRequest, context: Context, scheduler: Scheduler) -> None:
    """Writes a snapshot of the queue, then its changes, or a new snapshot when the client fell behind; never ends well.

    Raises:
        NotAccepting: the server is being stopped.
    """
    heartbeat = _heartbeat_interval(request.heartbeat_interval if request.HasField("heartbeat_interval") else None)
    feed = scheduler.queue_changes
    revision = -1
    while True:
        changes = feed.after(revision) if revision >= 0 else None
        if changes is None:
            snapshot = await queue_snapshot(scheduler)
            await context.write(WatchQueueResponse(snapshot=snapshot))
            revision = snapshot.revision
            continue
        for change in changes:
            await context.write(WatchQueueResponse(change=write_queue_change(change)))
            revision = change.revision
        if feed.closed:
            raise stopping()
        if not await feed.wait_beyond(revision, heartbeat) and not feed.closed:
            await context.write(WatchQueueResponse(heartbeat=_heartbeat(feed.revision)))


async def queue_snapshot(scheduler: Scheduler) -> QueueSnapshot:
    """The queue, with counts of the same moment unless it changes without a pause."""
    for _ in range(3):
        view = scheduler.queue()
        counts = await scheduler.counts()
        if scheduler.queue().revision == view.revision:
            break
    return write_queue(view, counts)


def _heartbeat_interval(asked: Duration | None) -> float:
    if asked is None:
        return DEFAULT_HEARTBEAT
    return min(max(read_duration(asked), SHORTEST_HEARTBEAT), LONGEST_HEARTBEAT)


def _heartbeat(sequence: int) -> Heartbeat:
    return Heartbeat(sequence=sequence, server_time=write_time(time.time()))
