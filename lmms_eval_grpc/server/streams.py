"""StreamSamples and StreamLogs: what a job's worker writes to files, read from any point, also while it is written."""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from lmms_eval_grpc.jobs.errors import InvalidRequest, SamplesNotLogged, StoreUnavailable, Violation
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.server.convert_samples import write_sample
from lmms_eval_grpc.server.folders import shown
from lmms_eval_grpc.server.limits import Pacer
from lmms_eval_grpc.server.watch import stopping
from lmms_eval_grpc.v1.evaluation_service_pb2 import StreamLogsResponse, StreamSamplesResponse

if TYPE_CHECKING:
    from lmms_eval_grpc.jobs.job import Job
    from lmms_eval_grpc.scheduler.journal import JobLog, Journal
    from lmms_eval_grpc.scheduler.scheduler import Scheduler
    from lmms_eval_grpc.store.base import SampleBatch, SampleStore
    from lmms_eval_grpc.v1.evaluation_service_pb2 import StreamLogsRequest, StreamSamplesRequest
    from lmms_eval_grpc.v1.job_pb2 import SampleRecord

MAX_MESSAGE_BYTES = 1 << 20
"""Bytes of any message."""
MAX_SAMPLES_BYTES = 512 * 1024
"""Bytes of JSON that make one message, unless a single record has more."""
MAX_LOG_BYTES = 256 * 1024
"""Bytes of the log in one message."""
POLL_INTERVAL = 0.5
"""Seconds between looks at a file that may grow."""
LOG_NAME = "worker.log"
_MOST_NAMED = 20
"""Tasks of a job that a message names."""

_LOG = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


async def stream_samples(
    request: StreamSamplesRequest,
    context: Context,
    journal: Journal,
    scheduler: Scheduler,
    samples: SampleStore,
    pacer: Pacer,
) -> None:
    """Writes a job's sample records, from a cursor on; following, until the job has ended and all of it was read.

    Raises:
        JobNotFound: there is no such job.
        SamplesNotLogged: the job keeps none.
        InvalidRequest: the cursor is none of this job's, or the job, which has ended, had no such task.
        NotAccepting: the server is being stopped while the stream follows.
    """
    log = await journal.log(request.job_id)
    spec = log.job.spec
    if not isinstance(spec, EvaluationSpec):
        raise SamplesNotLogged(request.job_id, "it is not an evaluation")
    if not spec.log_samples:
        raise SamplesNotLogged(request.job_id, "it was submitted with log_samples false; submit it again with true")
    folder = scheduler.job_dir(request.job_id)
    cursor = request.after_cursor
    found = not request.task
    while True:
        ended = log.job.state.ended  # Asked before reading: what is written by then is all there is.
        try:
            message = await _read_samples(samples, folder, cursor, request.task, pacer.bound(MAX_SAMPLES_BYTES))
            if ended and not found and message.next_cursor == cursor:
                await _check_task(log.job, spec.tasks, request.task, samples, folder)
        except InvalidRequest:
            await journal.log(request.job_id)  # Who removed the file may have removed the job.
            raise
        if message.next_cursor == cursor:
            if ended or not request.follow:
                if cursor == 0:
                    await journal.log(request.job_id)  # There may have been samples.
                return
            await _pause(log, journal)
            continue
        cursor = message.next_cursor
        if message.samples:
            found = True
            await _keep_pace(pacer, log, journal)
            await context.write(message)
            pacer.sent(message.ByteSize())


async def _check_task(job: Job, asked: Sequence[str], task: str, samples: SampleStore, folder: Path) -> None:
    """Raises InvalidRequest if ``task`` is none of an ended job's, as far as can be told.

    The names that the job was ``asked`` for may be groups or patterns, and what these stand for may have changed since,
    so the job's tasks are those that left a result or a sample. If not all have, because the job did not complete, any
    name may be that of another one.
    """
    known = {result.task for result in job.task_results}
    cursor = 0
    while task not in known and (batch := await samples.read(folder, cursor, MAX_SAMPLES_BYTES)).records:
        known.update(str(record.get("task")) for record in batch.records)
        cursor = batch.next_cursor
    if task in known or not known or not (job.state is JobState.COMPLETED or known.issuperset(asked)):
        return
    names = sorted(known)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    told = ", ".join(map(shown, names[:_MOST_NAMED])) + more
    raise InvalidRequest([Violation("task", f"{shown(task)} is no task of this job; its tasks are: {told}")])


async def _read_samples(samples: SampleStore, folder: Path, cursor: int, task: str, size: int) -> StreamSamplesResponse:
    """The message of about ``size`` bytes of records behind ``cursor``; its cursor is the same when there are none."""
    while True:
        batch = await samples.read(folder, cursor, size)
        message = await asyncio.to_thread(_write_samples, batch, task)
        if message.ByteSize() <= MAX_MESSAGE_BYTES or len(batch.records) == 1:
            return message
        size //= 2  # Many scores take more room in a message than in JSON.


def write_samples(records: Sequence[Mapping[str, object]], task: str) -> list[SampleRecord]:
    """The records of ``task`` (empty: of all) as messages, without those that make none: their lines are damaged."""
    written = []
    for record in records:
        if task and record.get("task") != task:
            continue
        try:
            written.append(write_sample(record))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            _LOG.warning("left out a sample record that makes no message: %s: %s", type(error).__name__, error)
    return written


def _write_samples(batch: SampleBatch, task: str) -> StreamSamplesResponse:
    return StreamSamplesResponse(samples=write_samples(batch.records, task), next_cursor=batch.next_cursor)


async def stream_logs(
    request: StreamLogsRequest, context: Context, journal: Journal, scheduler: Scheduler, pacer: Pacer
) -> None:
    """Writes the log of a job's worker, from an offset on; following, until the job has ended and all of it was read.

    Raises:
        JobNotFound: there is no such job.
        InvalidRequest: the offset is behind the end of the log.
        NotAccepting: the server is being stopped while the stream follows.
    """
    log = await journal.log(request.job_id)
    path = scheduler.job_dir(request.job_id) / LOG_NAME
    size = await asyncio.to_thread(_size, path)
    offset = request.after_offset if request.after_offset >= 0 else max(0, size + request.after_offset)
    while True:
        ended = log.job.state.ended
        most = pacer.bound(MAX_LOG_BYTES)
        size, start, data, torn = await asyncio.to_thread(_read, path, offset, most)
        if size == 0:
            await journal.log(request.job_id)  # There may have been a log, removed with the job.
        if offset > size:
            description = f"{offset} is behind the end of the log, which has {size} bytes; use an end_offset"
            raise InvalidRequest([Violation("after_offset", description)])
        # A character whose bytes are not all written yet waits for the rest, unless there will be none.
        text, used = codecs.utf_8_decode(data, "replace", torn or (ended and len(data) < most))
        if used:
            offset = start + used
            await _keep_pace(pacer, log, journal)
            await context.write(StreamLogsResponse(text=text, end_offset=offset))
            pacer.sent(used)
        elif ended or not request.follow:
            return
        else:
            await _pause(log, journal)


async def _keep_pace(pacer: Pacer, log: JobLog, journal: Journal) -> None:
    """Until the next message may be sent."""
    while seconds := pacer.wait():
        if journal.closed:
            raise stopping()
        # Not a sleep: a server that stops wakes those who wait here.
        if log.job.state.ended:
            await asyncio.sleep(min(seconds, POLL_INTERVAL))
        else:
            await log.wait_beyond(log.job.sequence, seconds)


async def _pause(log: JobLog, journal: Journal) -> None:
    """Until there may be more to read."""
    if journal.closed:
        raise stopping()
    # While the job waits nothing is written; later an event wakes early: the job may have ended.
    interval = None if log.job.state is JobState.QUEUED else POLL_INTERVAL
    await log.wait_beyond(log.job.sequence, interval)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, offset: int, most: int) -> tuple[int, int, bytes, bool]:
    """The size of a file (0 if there is none), where from ``offset`` on there is something in it, what that is, at most
    ``most`` bytes, and whether a gap follows right after: the middle of a log that is too long is left out."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if offset >= size:
                return size, offset, b"", False
            start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            gap = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data = os.pread(file.fileno(), min(most, gap - start), start)
            return size, start, data, start + len(data) == gap < size
    except FileNotFoundError:
        return 0, offset, b"", False
    except OSError as error:
        raise StoreUnavailable(f"the job's log cannot be read: {error.strerror}") from error
