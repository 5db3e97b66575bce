"""What follows a failed attempt: another one, or the end of the job."""

from __future__ import annotations

from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError
from lmms_eval_grpc.jobs.spec import EvaluationSpec, RetryPolicy

_FIRST_REST, _LONGEST_REST = 1.0, 60.0


def policy_of(job: Job) -> RetryPolicy | None:
    """The job's retry policy; None: its first failure is its end."""
    return job.spec.retry_policy if isinstance(job.spec, EvaluationSpec) else None


def is_retried(job: Job, error: JobError) -> bool:
    """Whether the attempt of ``job`` that has just failed with ``error`` is followed by another."""
    policy = policy_of(job)
    return policy is not None and error.code in policy.retry_on and job.failures + 1 < policy.max_attempts


def describe_retry(job: Job, error: JobError) -> str:
    """Why a job whose attempt failed waits again, for its log."""
    policy = policy_of(job)
    attempts = policy.max_attempts if policy else 1
    return f"attempt {job.attempt} failed ({error.reason}); failure {job.failures + 1} of at most {attempts}"


def rest(failures: int) -> float:
    """Seconds for which a job waits after its latest failure, whatever is free: a fault that passes needs a moment, and
    one that does not shall not keep the machine busy with starts."""
    return min(_FIRST_REST * 2.0 ** min(failures - 1, 16), _LONGEST_REST)
