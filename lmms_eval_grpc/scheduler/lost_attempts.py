"""Attempts that ended with the machine that ran them: whose fault that was nobody knows, so a job gets several."""

from __future__ import annotations

from lmms_eval_grpc.jobs.events import StateChange
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.journal import Journal

REQUEUED = "server restarted"
"""Reason of the state change that follows the death of the server."""
HOST_LOST = "host lost"
"""How the reason begins that follows the loss of the machine that a worker ran on."""


async def count_lost_attempts(journal: Journal, job_id: str) -> int:
    """How many attempts of the job ended with their server or with their host."""
    events = (await journal.log(job_id)).after(0)
    changes = [event.body for event in events if isinstance(event.body, StateChange)]
    return sum(
        change.state is JobState.QUEUED and change.reason.startswith((REQUEUED, HOST_LOST)) for change in changes
    )


def too_many_attempts(lost: int, reason: str = "") -> JobError:
    """Why a job that lost so many attempts has failed; ``reason`` is that of the last loss, where it is known."""
    message = (
        f"the server, or the machine that ran the worker, died or was killed during {lost} attempts of this job, which"
        " may be the reason; look for one in the server's log and the system's, for example too little memory, and"
        " submit the job again"
    )
    message += f" (the last time: {reason})" if reason else ""
    return JobError(JobErrorCode.INTERNAL, "TOO_MANY_ATTEMPTS", message, {"attempts": str(lost)})
