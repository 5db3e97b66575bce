"""What the present task works for: the log's lines tell it. Tasks and threads that a task starts inherit it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval_grpc.jobs.job import Job

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the call that is being handled; empty outside of calls."""
job_id: ContextVar[str] = ContextVar("job_id", default="")
"""Job that the call is about, or that the task carries."""
owner: ContextVar[str] = ContextVar("owner", default="")
"""Owner of the job that the task carries."""
trace_parent: ContextVar[str] = ContextVar("trace_parent", default="")
"""Span of the call that is being handled, or of the one that submitted the job, as W3C's ``traceparent``; empty without
traces."""


def enter_job(job: Job) -> None:
    """From now on the present task works for ``job``."""
    job_id.set(job.job_id)
    owner.set(job.owner)
    trace_parent.set(job.trace_parent)
