"""What can go wrong with a request, in the domain's own words. ``server.errors`` gives each its gRPC status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """The field's path in the request, e.g. ``spec.tasks[1]``."""
    description: str
    """The value, what is wrong with it, and the remedy."""


class ServiceError(Exception):
    """Base of the errors that a caller can be told about."""


class InvalidRequest(ServiceError):
    """One or more fields are wrong."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class JobNotFound(ServiceError):
    """There is no such job, or it was removed after it had ended."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"there is no job {job_id!r}; finished jobs are removed after a while, ListJobs shows those that are kept"
        )
        self.job_id = job_id


class JobUnreadable(ServiceError):
    """The job is there, but what is kept of it says more than this release understands, or is damaged."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"what is kept of job {job_id!r} cannot be read by this release of the server; the release that wrote it,"
            " or a later one, can"
        )
        self.job_id = job_id


class RequestIdConflict(ServiceError):
    """A request_id was used again with another payload, or by another principal."""

    def __init__(self, request_id: str, job_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} was already used with another payload or by another caller, by job {job_id};"
            " use a new UUID for a new request"
        )
        self.request_id = request_id
        self.job_id = job_id


class QueueFull(ServiceError):
    """The queue holds as many jobs as it may."""

    def __init__(self, capacity: int, retry_after: float) -> None:
        super().__init__(f"the queue is full ({capacity} jobs wait); try again later")
        self.capacity = capacity
        self.retry_after = retry_after


class TooManyWatches(ServiceError):
    """The server, or this client, has as many open watches as it may."""

    def __init__(self, scope: str, limit: int) -> None:
        super().__init__(
            f"{scope} has {limit} open watches, which is the limit; close one, or raise the server's limit"
        )
        self.scope = scope
        self.limit = limit


class TooManyJobs(ServiceError):
    """The principal has as many jobs waiting and running as it may."""

    def __init__(self, owner: str, limit: int, retry_after: float) -> None:
        super().__init__(f"{owner} has {limit} jobs that have not ended, the limit; wait for one, or cancel one")
        self.owner = owner
        self.limit = limit
        self.retry_after = retry_after


class TooManySubmissions(ServiceError):
    """The principal submits faster than it may."""

    def __init__(self, owner: str, per_minute: int, retry_after: float) -> None:
        super().__init__(
            f"{owner} submits more than {per_minute} jobs a minute, the limit; try again in {math.ceil(retry_after)} s"
        )
        self.owner = owner
        self.per_minute = per_minute
        self.retry_after = retry_after


class Unauthenticated(ServiceError):
    """The server asks for credentials, and the call has none that are valid."""


class PermissionDenied(ServiceError):
    """The caller is known, but may not do this."""

    def __init__(self, message: str, *, permission: str) -> None:
        super().__init__(message)
        self.permission = permission
        """What would be needed: a role's name, or ``owner``."""


class CallTimedOut(ServiceError):
    """The call took longer than calls may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the call took longer than {seconds:g} s, the server's unary_timeout, and was cut off; what it had begun"
            " to change is carried to its end, so look before you repeat it, or repeat it with the same request_id"
        )
        self.seconds = seconds


class NotAccepting(ServiceError):
    """The server starts or drains."""

    def __init__(self, why: str, retry_after: float) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class SequenceOutOfRange(ServiceError):
    """A watcher asked for events after one that does not exist yet."""

    def __init__(self, job_id: str, asked: int, newest: int) -> None:
        super().__init__(f"after_sequence {asked} is ahead of the log of job {job_id}, whose newest event is {newest}")
        self.job_id = job_id


class SamplesNotLogged(ServiceError):
    """The job keeps no samples."""

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(f"job {job_id} has no samples: {why}")
        self.job_id = job_id


class NotQueued(ServiceError):
    """What was asked can be done with a job that waits, and this one does not any more."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id} does not wait any more, it is {state}; only a queued job has a place to change")
        self.job_id = job_id
        self.state = state


class QueuePaused(ServiceError):
    """Queued jobs are to be finished while none may be started."""

    def __init__(self, reason: str) -> None:
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"the queue is paused{why}, so its jobs would never be finished; resume it first, or drain without them"
        )


class StoreUnavailable(ServiceError):
    """The store cannot be written (disk full, file damaged); nothing was accepted."""
