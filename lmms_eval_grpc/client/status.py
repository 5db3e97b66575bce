"""Reads ``grpc-status-details-bin``, the rich part of an error, by hand and with tolerance.

A proxy may cut it, a foreign server may fill it with something else: whatever cannot be read is left out, and the
call's own error is never replaced by one about its details.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_KEY = "grpc-status-details-bin"
_DOMAIN = "lmms-eval-grpc"


@dataclass(frozen=True, slots=True)
class StatusDetails:
    """What the server said about an error, beside its code and text."""

    reason: str = ""
    """From our own ErrorInfo. Empty when the error is not the service's (grpc's, a proxy's)."""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    """(field, description) of every bad field."""
    retry_after: float | None = None
    """Seconds."""


def read_details(trailing_metadata: Iterable[Any] | None) -> StatusDetails:
    """Decodes the details in the trailing metadata of a failed call; never raises."""
    reason, metadata, violations, retry_after = "", {}, [], None
    for detail in _packed_details(trailing_metadata):
        try:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                if info.domain == _DOMAIN:
                    reason, metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                request = error_details_pb2.BadRequest.FromString(detail.value)
                violations += [(v.field, v.description) for v in request.field_violations]
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_after = delay.seconds + delay.nanos / 1e9
        except DecodeError:
            continue
    return StatusDetails(reason, metadata, tuple(violations), retry_after)


def _packed_details(trailing_metadata: Iterable[Any] | None) -> list[Any]:
    try:
        for key, value in trailing_metadata or ():
            if key == _KEY:
                return list(status_pb2.Status.FromString(value).details)
    except (DecodeError, TypeError, ValueError):
        pass
    return []
