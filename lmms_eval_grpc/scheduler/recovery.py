"""Putting in order what the server before this one left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.jobs.errors import JobNotFound, JobUnreadable
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.lost_attempts import REQUEUED, count_lost_attempts, too_many_attempts
from lmms_eval_grpc.scheduler.slots import unfit
from lmms_eval_grpc.store.base import JobStore

_LOG = logging.getLogger(__name__)


async def recover(
    store: JobStore, executor: Executor, journal: Journal, job_dir: Callable[[str], Path], max_attempts: int
) -> list[Job]:
    """Ends or requeues every job that has not ended, and returns those that are queued now, in submission order.

    Workers that outlived their server are killed first, those that prepared a job which still waited included. A job
    that was running waits again, at its old place, and its next attempt goes on from its run log; one that was being
    cancelled is cancelled. One that no device of this server fits, nor can come to fit, has failed, as has one whose
    server, or host, died during each of ``max_attempts`` attempts. One whose record cannot be read stays as it is, for
    the release that wrote it.
    """
    unfinished = await store.unfinished()
    started = [job.job_id for job in unfinished.jobs if job.state is not JobState.QUEUED]
    if leftovers := [*(job.job_id for job in unfinished.jobs), *unfinished.unreadable]:
        await executor.clear_leftovers([job_dir(job_id) for job_id in leftovers])
    unreadable = list(unfinished.unreadable)
    queued: list[Job] = []
    for found in unfinished.jobs:
        try:
            job = await _recovered(journal, found, max_attempts)
            violation = None if executor.elastic else unfit(job.spec, executor.devices)
            if job.state is JobState.QUEUED and violation is not None:
                error = JobError(JobErrorCode.INVALID, "NO_SUCH_DEVICE", f"{violation.field}: {violation.description}")
                job = await journal.enter(job.job_id, JobState.FAILED, error=error)
        # The last three: of a record whose parts do not fit together. One job must not keep the others from running.
        except (JobUnreadable, JobNotFound, IllegalTransition, ValueError):
            unreadable.append(found.job_id)
            continue
        if job.state is JobState.QUEUED:
            queued.append(job)
    if unfinished.jobs:
        _LOG.info("recovered %d jobs, of which %d had been started", len(unfinished.jobs), len(started))
    if unreadable:
        _LOG.error(
            "%d jobs cannot be read and are not run; the release of the server that wrote them can: %s",
            len(unreadable),
            ", ".join(unreadable),
        )
    return queued


async def _recovered(journal: Journal, job: Job, max_attempts: int) -> Job:
    match job.state:
        case JobState.RUNNING:
            lost = await count_lost_attempts(journal, job.job_id) + 1
            if lost < max_attempts:
                return await journal.enter(job.job_id, JobState.QUEUED, reason=REQUEUED)
            return await journal.enter(job.job_id, JobState.FAILED, error=too_many_attempts(lost))
        case JobState.CANCELLING:
            return await journal.enter(job.job_id, JobState.CANCELLED, reason=job.cancel_reason or REQUEUED)
        case _:
            # Read in full now: one that turns out to be unreadable later would be in the way of the others.
            return await journal.job(job.job_id)
