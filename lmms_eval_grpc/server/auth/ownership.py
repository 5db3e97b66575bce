"""What a principal may do with a job depends on whose it is."""

from __future__ import annotations

from lmms_eval_grpc.jobs.errors import PermissionDenied
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.server.principals import Principal, Role


def check_is_owner(principal: Principal, job: Job) -> None:
    """Raises PermissionDenied when the job is somebody else's. Not for administrators: they need not own it."""
    if job.owner != principal.name:
        whose = f"{job.owner}'s" if job.owner else "of an unknown owner"
        raise PermissionDenied(
            f"job {job.job_id} is {whose}, and {principal.name} has the role {principal.role.word}: only its owner and"
            " those with the role admin may cancel it",
            permission="owner",
        )


def check_may_prefer(principal: Principal, priority: int, most: int) -> None:
    """Raises PermissionDenied when a priority is above ``most``, and the principal no administrator."""
    if principal.role < Role.ADMIN and priority > most:
        raise PermissionDenied(
            f"priority {priority} needs the role admin, and {principal.name} has the role {principal.role.word}, which"
            f" goes up to {most}",
            permission=Role.ADMIN.word,
        )
