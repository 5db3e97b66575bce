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
from lmms_eval_grpc.server.watch import stopping
from lmms_eval_grpc.v1.evaluation_service_pb2 import StreamLogsResponse, StreamSamplesResponse

if TYPE_CHECKING:
    from lmms_eval_grpc.scheduler.journal import JobLog, Journal
    from lmms_eval_grpc.scheduler.scheduler import Scheduler
    from lmms_eval_grpc.store.base import SampleStore
    from lmms_eval_grpc.v1.evaluation_service_pb2 import StreamLogsRequest, StreamSamplesRequest
    from lmms_eval_grpc.v1.job_pb2 import SampleRecord

MAX_SAMPLES_BYTES = 512 * 1024
"""Bytes of JSON that make one message, which is then below 1 MiB unless a single record is larger."""
MAX_LOG_BYTES = 256 * 1024
"""Bytes of the log in one message."""
POLL_INTERVAL = 0.5
"""Seconds between looks at a file that may grow."""
LOG_NAME = "worker.log"

_LOG = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


async def stream_samples(
    request: StreamSamplesRequest, context: Context, journal: Journal, scheduler: Scheduler, samples: SampleStore
) -> None:
    """Writes a job's sample records, from a cursor on; following, until the job has ended and all of it was read.

    Raises:
        JobNotFound: there is no such job.
        SamplesNotLogged: the job keeps none.
        InvalidRequest: the cursor is none of this job's.
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
    while True:
        ended = log.job.state.ended  # Asked before reading: what is written by then is all there is.
        try:
            batch = await samples.read(folder, cursor, MAX_SAMPLES_BYTES)
        except InvalidRequest:
            await journal.log(request.job_id)  # Who removed the file may have removed the job.
            raise
        if batch.next_cursor == cursor:
            if ended or not request.follow:
                if cursor == 0:
                    await journal.log(request.job_id)  # There may have been samples.
                return
            await _pause(log, journal)
            continue
        cursor = batch.next_cursor
        records = await asyncio.to_thread(write_samples, batch.records, request.task)
        if records:
            await context.write(StreamSamplesResponse(samples=records, next_cursor=cursor))


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


async def stream_logs(request: StreamLogsRequest, context: Context, journal: Journal, scheduler: Scheduler) -> None:
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
        size, start, data, torn = await asyncio.to_thread(_read, path, offset)
        if size == 0:
            await journal.log(request.job_id)  # There may have been a log, removed with the job.
        if offset > size:
            description = f"{offset} is behind the end of the log, which has {size} bytes; use an end_offset"
            raise InvalidRequest([Violation("after_offset", description)])
        # A character whose bytes are not all written yet waits for the rest, unless there will be none.
        text, used = codecs.utf_8_decode(data, "replace", torn or (ended and len(data) < MAX_LOG_BYTES))
        if used:
            offset = start + used
            await context.write(StreamLogsResponse(text=text, end_offset=offset))
        elif ended or not request.follow:
            return
        else:
            await _pause(log, journal)


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


def _read(path: Path, offset: int) -> tuple[int, int, bytes, bool]:
    """The size of a file (0 if there is none), where from ``offset`` on there is something in it, what that is, at most
    :data:`MAX_LOG_BYTES`, and whether a gap follows right after: the middle of a log that is too long is left out."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if offset >= size:
                return size, offset, b"", False
            start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            gap = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data = os.pread(file.fileno(), min(MAX_LOG_BYTES, gap - start), start)
            return size, start, data, start + len(data) == gap < size
    except FileNotFoundError:
        return 0, offset, b"", False
    except OSError as error:
        raise StoreUnavailable(f"the job's log cannot be read: {error.strerror}") from error
