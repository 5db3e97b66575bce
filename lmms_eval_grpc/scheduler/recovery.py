"""Putting in order what the server before this one left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.slots import unfit
from lmms_eval_grpc.store.base import JobStore

_LOG = logging.getLogger(__name__)

REQUEUED = "server restarted"


async def recover(store: JobStore, executor: Executor, journal: Journal, job_dir: Callable[[str], Path]) -> list[Job]:
    """Ends or requeues every job that has not ended, and returns those that are queued now, in submission order.

    Workers that outlived their server are killed first. A job that was running waits again, at its old place, and its
    next attempt goes on from its run log; one that was being cancelled is cancelled; one that no device of this server
    fits has failed.
    """
    unfinished = await store.unfinished()
    started = [job for job in unfinished if job.state is not JobState.QUEUED]
    if started:
        await executor.clear_leftovers([job_dir(job.job_id) for job in started])
    queued: list[Job] = []
    for found in unfinished:
        job = await _recovered(journal, found)
        if job.state is JobState.QUEUED and (violation := unfit(job.spec, executor.devices)) is not None:
            error = JobError(JobErrorCode.INVALID, "NO_SUCH_DEVICE", f"{violation.field}: {violation.description}")
            job = await journal.enter(job.job_id, JobState.FAILED, error=error)
        if job.state is JobState.QUEUED:
            queued.append(job)
    if unfinished:
        _LOG.info("recovered %d jobs, of which %d had been started", len(unfinished), len(started))
    return queued


async def _recovered(journal: Journal, job: Job) -> Job:
    match job.state:
        case JobState.RUNNING:
            return await journal.enter(job.job_id, JobState.QUEUED, reason=REQUEUED)
        case JobState.CANCELLING:
            return await journal.enter(job.job_id, JobState.CANCELLED, reason=job.cancel_reason or REQUEUED)
        case _:
            return job
