"""A job and its events as rows: the statements that a write consists of. Each runs inside the writer's transaction."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from collections.abc import Iterable
from typing import Any

from lmms_eval_grpc.jobs.codec import DecodeError, decode, encode
from lmms_eval_grpc.jobs.errors import JobNotFound, RequestIdConflict
from lmms_eval_grpc.jobs.events import EventBody, JobEvent
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobResult, TaskResult
from lmms_eval_grpc.jobs.state import JobState

PROBE = (
    "INSERT OR REPLACE INTO counters VALUES ('probe', randomblob(65536))",
    "DELETE FROM counters WHERE name = 'probe'",
)
"""Each in a transaction of its own: what is removed in the same one is not written. An end between them leaves the row;
there is at most one."""
ENDED = tuple(state.value for state in JobState if state.ended)


def insert(connection: sqlite3.Connection, job: Job, event: JobEvent) -> None:
    """Adds a job with the first event of its log. Raises RequestIdConflict, ValueError."""
    position = job.order
    try:
        connection.execute(
            "INSERT INTO jobs (position, job_id, request_id, state, sequence, end_time, job, task_results, result,"
            " owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                position,
                job.job_id,
                job.request_id or None,
                job.state.value,
                job.sequence,
                job.end_time,
                _head(job),
                encode(job.task_results),
                encode(job.result),
                job.owner,
            ),
        )
    except sqlite3.IntegrityError as error:
        if job.request_id:
            taken = connection.execute("SELECT job_id FROM jobs WHERE request_id = ?", (job.request_id,)).fetchone()
            if taken is not None:
                raise RequestIdConflict(job.request_id, taken[0]) from None
        raise ValueError(f"there is a job {job.job_id!r} or a job with order {job.order} already") from error
    if job.labels:
        connection.executemany(
            "INSERT INTO labels (position, key, value) VALUES (?, ?, ?)",
            [(position, key, value) for key, value in job.labels.items()],
        )
    _add_event(connection, position, event)
    connection.execute("UPDATE counters SET value = max(value, ?) WHERE name = 'last_order'", (position,))


def append(connection: sqlite3.Connection, job: Job, event: JobEvent) -> None:
    """Adds an event, and makes the job what it is after it. Raises JobNotFound, ValueError."""
    columns = {"state": job.state.value, "sequence": job.sequence, "end_time": job.end_time, "job": _head(job)}
    # Progress, the most frequent event, must not write all results again.
    if isinstance(event.body, TaskResult):
        columns["task_results"] = encode(job.task_results)
    if job.state.ended:
        columns["result"] = encode(job.result)
    cursor = connection.execute(
        f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in columns)} WHERE job_id = ? AND sequence = ?",
        (*columns.values(), job.job_id, event.sequence - 1),
    )
    if cursor.rowcount == 0:
        found = connection.execute("SELECT sequence FROM jobs WHERE job_id = ?", (job.job_id,)).fetchone()
        if found is None:
            raise JobNotFound(job.job_id)
        raise ValueError(f"event {event.sequence} of job {job.job_id} cannot follow event {found[0]}")
    if event.terminal:
        connection.execute("INSERT INTO endings (position) VALUES (?)", (job.order,))
    if event.supersedable:
        connection.execute("DELETE FROM events WHERE position = ? AND supersedable", (job.order,))
    _add_event(connection, job.order, event)


def amend(connection: sqlite3.Connection, job: Job) -> None:
    """Replaces what a job is between two events. Raises JobNotFound."""
    values = (_head(job), job.job_id, job.sequence)
    if connection.execute("UPDATE jobs SET job = ? WHERE job_id = ? AND sequence = ?", values).rowcount == 0:
        raise JobNotFound(job.job_id)


def remove(connection: sqlite3.Connection, job_ids: tuple[str, ...]) -> None:
    """Removes those of these jobs that have ended, with all that refers to them."""
    connection.executemany(
        f"DELETE FROM jobs WHERE job_id = ? AND state IN ({marks(ENDED)})",
        [(job_id, *ENDED) for job_id in job_ids],
    )


def decode_job(head: str, task_results: str | None, result: str | None) -> Job:
    """The job of a row; without results where their columns are left out. Raises DecodeError."""
    job = decode(Job, head)
    if task_results is None or result is None:
        return job
    outcome: Any = decode(JobResult | None, result)
    return dataclasses.replace(job, task_results=decode(tuple[TaskResult, ...], task_results), result=outcome)


def decode_event(sequence: Any, time: Any, body: str) -> JobEvent:
    """The event of a row, whose columns may hold anything. Raises DecodeError."""
    if not isinstance(sequence, int) or not isinstance(time, int | float) or not math.isfinite(time):
        raise DecodeError(f"event {sequence!r} at {time!r} has no number or no time")
    return JobEvent(sequence, float(time), decode(EventBody, body))


def marks(values: Iterable[object]) -> str:
    """As many question marks as there are values."""
    return ", ".join("?" for _ in values)


def _add_event(connection: sqlite3.Connection, position: int, event: JobEvent) -> None:
    connection.execute(
        "INSERT INTO events (position, sequence, time, supersedable, body) VALUES (?, ?, ?, ?, ?)",
        (position, event.sequence, event.time, event.supersedable, encode(event.body)),
    )


def _head(job: Job) -> str:
    """The job without what has columns of its own."""
    if job.task_results or job.result is not None:
        job = dataclasses.replace(job, task_results=(), result=None)
    return encode(job)
