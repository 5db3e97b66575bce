"""The one table from domain errors to gRPC statuses, and how a status is put on the wire."""

from __future__ import annotations

import base64
import itertools
import math
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest

from lmms_eval_grpc.jobs import errors as domain
from lmms_eval_grpc.server.convert_values import clean

DOMAIN = "lmms-eval-grpc"
"""``google.rpc.ErrorInfo.domain`` of every error of this service."""

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata key of the status details, as every gRPC library reads it."""

MAX_WIRE_BYTES = 6000
"""Bytes of status message and details together, as sent. From 8 KiB on clients see a broken stream, now and then."""

_MAX_MESSAGE_BYTES = 1500
"""Of the status message as sent: percent-encoded, so that most characters beyond ASCII take six or nine bytes."""
_MAX_DESCRIPTION = 600
_MAX_METADATA_VALUE = 200

Details = Callable[[Any], Sequence[Message]]
Metadata = Callable[[Any], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """How one domain error is told."""

    code: grpc.StatusCode
    reason: str
    """Stable upper-case word for programs: ``ErrorInfo.reason``."""
    details: Details = lambda error: ()
    metadata: Metadata = lambda error: {}
    message: str | None = None
    """Replaces the error's own text, where that could name a file of the server."""


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMicroseconds(max(0, math.ceil(seconds * 1e6)))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _bad_request(error: domain.InvalidRequest) -> BadRequest:
    return BadRequest(
        field_violations=[
            BadRequest.FieldViolation(
                field=_cut(violation.field, _MAX_METADATA_VALUE),
                description=_cut(violation.description, _MAX_DESCRIPTION),
            )
            for violation in error.violations
        ]
    )


def _resource(job_id: str) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(
        resource_type="job", resource_name=_cut(job_id, _MAX_METADATA_VALUE), description="no such job"
    )


def _quota(subject: str, description: str) -> error_details_pb2.QuotaFailure:
    violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
    return error_details_pb2.QuotaFailure(violations=[violation])


def _precondition(kind: str, subject: str, description: str) -> error_details_pb2.PreconditionFailure:
    violation = error_details_pb2.PreconditionFailure.Violation(type=kind, subject=subject, description=description)
    return error_details_pb2.PreconditionFailure(violations=[violation])


_WATCH_RETRY_SECONDS = 5.0
_STORE_RETRY_SECONDS = 5.0

TABLE: dict[type[domain.ServiceError], Row] = {
    domain.InvalidRequest: Row(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", details=lambda error: [_bad_request(error)]
    ),
    domain.JobNotFound: Row(
        grpc.StatusCode.NOT_FOUND,
        "JOB_NOT_FOUND",
        details=lambda error: [_resource(error.job_id)],
        metadata=lambda error: {"job_id": error.job_id},
    ),
    domain.JobUnreadable: Row(
        grpc.StatusCode.DATA_LOSS, "JOB_UNREADABLE", metadata=lambda error: {"job_id": error.job_id}
    ),
    domain.RequestIdConflict: Row(
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_CONFLICT",
        metadata=lambda error: {"request_id": error.request_id, "job_id": error.job_id},
    ),
    domain.QueueFull: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        details=lambda error: [_quota("queue", str(error)), _retry_info(error.retry_after)],
        metadata=lambda error: {"capacity": str(error.capacity)},
    ),
    domain.TooManyWatches: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_WATCHES",
        details=lambda error: [_quota(error.scope, str(error)), _retry_info(_WATCH_RETRY_SECONDS)],
        metadata=lambda error: {"limit": str(error.limit)},
    ),
    domain.TooManyJobs: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_JOBS",
        details=lambda error: [_quota(f"principal:{error.owner}", str(error)), _retry_info(error.retry_after)],
        metadata=lambda error: {"limit": str(error.limit)},
    ),
    domain.TooManySubmissions: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_SUBMISSIONS",
        details=lambda error: [_quota(f"principal:{error.owner}", str(error)), _retry_info(error.retry_after)],
        metadata=lambda error: {"limit_per_minute": str(error.per_minute)},
    ),
    domain.Unauthenticated: Row(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    domain.PermissionDenied: Row(
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
        metadata=lambda error: {"permission": error.permission},
    ),
    domain.CallTimedOut: Row(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "CALL_TIMED_OUT",
        metadata=lambda error: {"seconds": f"{error.seconds:g}"},
    ),
    domain.NotAccepting: Row(
        grpc.StatusCode.UNAVAILABLE, "NOT_ACCEPTING", details=lambda error: [_retry_info(error.retry_after)]
    ),
    domain.SequenceOutOfRange: Row(
        grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_OUT_OF_RANGE", metadata=lambda error: {"job_id": error.job_id}
    ),
    domain.SamplesNotLogged: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "SAMPLES_NOT_LOGGED",
        details=lambda error: [_precondition("SAMPLES_LOGGED", f"jobs/{error.job_id}", str(error))],
        metadata=lambda error: {"job_id": error.job_id},
    ),
    domain.NotQueued: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "JOB_NOT_QUEUED",
        details=lambda error: [_precondition("JOB_QUEUED", f"jobs/{error.job_id}", str(error))],
        metadata=lambda error: {"job_id": error.job_id, "state": str(error.state)},
    ),
    domain.QueuePaused: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "QUEUE_PAUSED",
        details=lambda error: [_precondition("QUEUE_RESUMED", "queue", str(error))],
    ),
    domain.StoreUnavailable: Row(
        grpc.StatusCode.UNAVAILABLE,
        "STORE_UNAVAILABLE",
        details=lambda error: [_retry_info(_STORE_RETRY_SECONDS)],
        message="the job store cannot be written, nothing was accepted; the server's log says why",
    ),
}


@dataclass(frozen=True, slots=True)
class Status:
    """A status ready to be sent."""

    code: grpc.StatusCode
    message: str
    details: bytes
    """A serialised ``google.rpc.Status``."""

    async def abort(self, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        """Ends the call with this status. Never returns."""
        await context.abort(self.code, self.message, trailing_metadata=((DETAILS_KEY, self.details),))


def status_of(error: domain.ServiceError) -> Status:
    """The status that tells ``error``."""
    row = TABLE[type(error)]
    message = _cut_encoded(clean(row.message or str(error)), _MAX_MESSAGE_BYTES)
    metadata = {key: _cut(value, _MAX_METADATA_VALUE) for key, value in row.metadata(error).items()}
    return _build(row.code, message, row.reason, metadata, row.details(error))


def internal_status(error_id: str) -> Status:
    """The status of a bug: nothing but an id, which the log has too."""
    message = f"internal error {error_id}; the server's log has the details under this id"
    return _build(grpc.StatusCode.INTERNAL, message, "INTERNAL", {"error_id": error_id}, ())


def _build(
    code: grpc.StatusCode, message: str, reason: str, metadata: dict[str, str], details: Sequence[Message]
) -> Status:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in (info, *details):
        status.details.append(_pack(detail))
    packed = status.SerializeToString()
    if _wire_bytes(message, packed) <= MAX_WIRE_BYTES:
        return Status(code, message, packed)
    return Status(code, message, _trimmed(status, details))


def _trimmed(status: status_pb2.Status, details: Sequence[Message]) -> bytes:
    """``status`` with as many field violations as fit, and a last one that says how many more there are."""
    shorter = status_pb2.Status.FromString(status.SerializeToString())
    del shorter.details[1:]
    best: bytes = shorter.SerializeToString()
    violations = next((detail.field_violations for detail in details if isinstance(detail, BadRequest)), ())
    for kept in range(len(violations)):
        told = BadRequest(field_violations=violations[:kept])
        told.field_violations.add(
            description=f"and {len(violations) - kept} more; mend these and send the request again"
        )
        del shorter.details[1:]
        shorter.details.append(_pack(told))
        packed = shorter.SerializeToString()
        if _wire_bytes(shorter.message, packed) > MAX_WIRE_BYTES:
            break
        best = packed
    return best


def _pack(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _wire_bytes(message: str, packed: bytes) -> int:
    return _encoded_bytes(message) + len(base64.b64encode(packed))


def _encoded_bytes(text: str) -> int:
    return len(urllib.parse.quote(text))


def _cut(text: str, length: int) -> str:
    text = clean(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _cut_encoded(text: str, most: int) -> str:
    if len(text) <= most and _encoded_bytes(text) <= most:
        return text
    room = most - _encoded_bytes("…")
    sizes = itertools.accumulate(_encoded_bytes(character) for character in text[:most])
    return text[: sum(1 for _ in itertools.takewhile(lambda size: size <= room, sizes))] + "…"
