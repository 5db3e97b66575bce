"""Plain values between the public messages and Python: JSON-like structures, times, enums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

_LARGEST_EXACT = 2.0**53
_LONGEST_DURATION = 315_576_000_000.0


def read_struct(struct: Struct) -> dict[str, Any]:
    """``struct`` as Python values; whole numbers up to 2^53 become ints again. It must be within the bounds of
    :mod:`~lmms_eval_grpc.server.caps`."""
    return {key: _read_value(item) for key, item in struct.fields.items()}


def write_struct(values: Mapping[str, Any]) -> Struct:
    """The inverse of :func:`read_struct`."""
    struct = Struct()
    struct.update(values)
    return struct


def _read_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return read_struct(value.struct_value)
        case "list_value":
            return [_read_value(item) for item in value.list_value.values]
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            # What is no number is told by the bounds; it is read all the same, to find what else is wrong.
            whole = math.isfinite(number) and number.is_integer() and abs(number) <= _LARGEST_EXACT
            return int(number) if whole else number
        case _:
            return None


def write_time(seconds: float) -> Timestamp:
    """Seconds since the epoch, to the microsecond."""
    time = Timestamp()
    time.FromMicroseconds(round(seconds * 1e6))
    return time


def write_duration(seconds: float) -> Duration:
    """Seconds, to the microsecond; NaN becomes 0, and more than a message can hold becomes the most that it can."""
    bounded = 0.0 if math.isnan(seconds) else max(-_LONGEST_DURATION, min(seconds, _LONGEST_DURATION))
    duration = Duration()
    duration.FromMicroseconds(round(bounded * 1e6))
    return duration


def clean(text: str) -> str:
    """``text`` without what UTF-8 cannot say: models and logs may bring half surrogate pairs."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def read_duration(duration: Duration) -> float:
    """Seconds."""
    return float(duration.seconds) + duration.nanos / 1e9
