"""What can go wrong, as exceptions: one class per situation that a caller may want to tell apart.

Every error of a call is an :class:`EvalServiceError` whose ``__cause__`` is grpc's own error. All of them can be
pickled (from a data-loader worker or a process pool, say); a cause that cannot is replaced by its text.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from lmms_eval_grpc.client import hints
from lmms_eval_grpc.client.status import StatusDetails, read_details


class EvalServiceError(Exception):
    """Base of everything that the clients raise about the service."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        """gRPC's status code, such as "NOT_FOUND". Empty when no call was made."""
        self.reason = reason
        """The server's stable upper-case word for it, such as "JOB_NOT_FOUND". Empty when it gave none."""
        self.metadata = dict(metadata or {})
        """Facts for programs, as the server gave them."""
        self.retry_after = retry_after
        """Seconds after which the server suggests trying again. None when it suggests nothing."""

    @property
    def rpc_error(self) -> grpc.RpcError | None:
        """grpc's own error. None when there is none, as after unpickling."""
        return self.__cause__ if isinstance(self.__cause__, grpc.RpcError) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, dict(self.__dict__), _picklable(self.__cause__))


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """Its path in the request, such as ``spec.tasks[1]``."""
    description: str
    """The value, what is wrong with it, and the remedy."""


class InvalidRequest(EvalServiceError, ValueError):
    """One or more fields of the request are wrong. All that are known to be wrong are in `violations`."""

    def __init__(self, message: str, *, violations: Iterable[Violation] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.violations = tuple(violations)

    @classmethod
    def of(cls, violations: Sequence[Violation]) -> InvalidRequest:
        """The error for `violations` found on this side, before anything was sent."""
        return cls("; ".join(f"{v.field}: {v.description}" for v in violations), violations=violations)


class JobNotFound(EvalServiceError, LookupError):
    """There is no such job, or it was removed some time after it had ended."""


class RequestConflict(EvalServiceError):
    """The request_id was used before, with another payload or by another caller."""


class Unauthenticated(EvalServiceError):
    """The server asks who calls, and was shown no credentials, or none that are valid."""


class PermissionDenied(EvalServiceError, PermissionError):
    """The caller is known, and may not do this. `metadata["permission"]` is the role that it takes, or "owner"."""


class QueueFull(EvalServiceError):
    """The queue holds as many jobs as it may. `retry_after` says when to try again."""


class TooManyWatches(EvalServiceError):
    """The server, or this client, has as many open streams as it may; close one, or raise the server's limit."""


class TooManyJobs(EvalServiceError):
    """The caller has as many jobs that have not ended as it may; wait for one, or cancel one."""


class TooManySubmissions(EvalServiceError):
    """The caller submits faster than it may. `retry_after` says when the next job will be taken."""


class SamplesNotLogged(EvalServiceError):
    """The job keeps no samples."""


class JobNotQueued(EvalServiceError):
    """The job does not wait any more."""


class QueuePaused(EvalServiceError):
    """Queued jobs were to be finished, but the queue is paused; resume it first."""


class SequenceOutOfRange(EvalServiceError):
    """A watch asked for what comes after an event that the job does not have yet."""


class ServerUnavailable(EvalServiceError, ConnectionError):
    """The server cannot be reached, starts, drains, or did not answer in time."""


class JobFailed(EvalServiceError, RuntimeError):
    """The job that was waited for has failed."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        error = job.get("error") or "the server gave no reason"
        super().__init__(f"Job failed: {error}", reason=(job.get("error_info") or {}).get("reason", ""))
        self.job = dict(job)
        """The job, as `get_job` returns it."""


_BY_CODE: dict[grpc.StatusCode, type[EvalServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: JobNotFound,
    grpc.StatusCode.ALREADY_EXISTS: RequestConflict,
    grpc.StatusCode.FAILED_PRECONDITION: SamplesNotLogged,
    grpc.StatusCode.OUT_OF_RANGE: SequenceOutOfRange,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QueueFull,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServerUnavailable,
}

_BY_REASON: dict[str, type[EvalServiceError]] = {
    "TOO_MANY_WATCHES": TooManyWatches,
    "TOO_MANY_JOBS": TooManyJobs,
    "TOO_MANY_SUBMISSIONS": TooManySubmissions,
    "JOB_NOT_QUEUED": JobNotQueued,
    "QUEUE_PAUSED": QueuePaused,
}
"""Situations that share their code with another one."""


def to_error(error: grpc.RpcError, *, address: str) -> EvalServiceError:
    """The typed error for `error`, which the sync or the asyncio client got from a call to `address`."""
    code, text, details = status_of(error)
    kind = _kind_of(code, details)
    facts: dict[str, Any] = {
        "code": code.name,
        "reason": details.reason,
        "metadata": details.metadata,
        "retry_after": details.retry_after,
    }
    if issubclass(kind, InvalidRequest):
        facts["violations"] = [Violation(field, description) for field, description in details.violations]
    return kind(_message(code, text, details, address), **facts)


def raise_typed(error: grpc.RpcError, *, address: str) -> NoReturn:
    """Raises the typed error for `error`, with `error` as its cause."""
    raise to_error(error, address=address) from error


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, StatusDetails]:
    """Code, text and decoded details of a failed call."""
    code = getattr(error, "code", lambda: None)()
    if not isinstance(code, grpc.StatusCode):
        code = grpc.StatusCode.UNKNOWN
    text = getattr(error, "details", lambda: None)() or ""
    trailers = getattr(error, "trailing_metadata", lambda: None)()
    return code, text, read_details(trailers)


def _kind_of(code: grpc.StatusCode, details: StatusDetails) -> type[EvalServiceError]:
    kind = _BY_CODE.get(code, EvalServiceError)
    # Without our own ErrorInfo the status came from grpc or a proxy, where a code may mean something else: a message
    # over the size limit is RESOURCE_EXHAUSTED too.
    if not details.reason and kind not in (InvalidRequest, ServerUnavailable):
        return EvalServiceError
    return _BY_REASON.get(details.reason, kind)


def _message(code: grpc.StatusCode, text: str, details: StatusDetails, address: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the server at {address} did not answer in time ({text})"
    if code is grpc.StatusCode.UNAVAILABLE and not details.reason:
        hint = hints.explain(text, encrypted=address.startswith("grpcs://"))
        return f"the server at {address} cannot be reached{f'; {hint}' if hint else ''} ({text})"
    if not text and details.violations:
        return "; ".join(f"{field}: {description}" for field, description in details.violations)
    return text or f"the server at {address} answered {code.name} without a message"


def _restore(
    kind: type[EvalServiceError], args: tuple[Any, ...], state: dict[str, Any], cause: BaseException | None
) -> EvalServiceError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    error.__cause__ = cause
    return error


def _picklable(cause: BaseException | None) -> BaseException | None:
    try:
        # A round trip: some exceptions can be pickled and not be restored.
        pickle.loads(pickle.dumps(cause))
    except Exception:
        return RuntimeError(f"{type(cause).__name__}: {cause}")
    return cause
