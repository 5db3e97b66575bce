"""Plain values between the public messages and Python: JSON-like structures, times, enums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from lmms_eval_grpc.jobs.errors import Violation

MAX_STRUCT_DEPTH = 32
"""Levels of nesting of a ``google.protobuf.Struct`` that a request may bring."""
MAX_STRUCT_BYTES = 256 * 1024
"""Bytes of one ``Struct`` of a request."""

_LARGEST_EXACT = 2.0**53
_LONGEST_DURATION = 315_576_000_000.0


def read_struct(struct: Struct, field: str, violations: list[Violation]) -> dict[str, Any]:
    """``struct`` as Python values; whole numbers up to 2^53 become ints again. Adds to ``violations``."""
    size = struct.ByteSize()
    if size > MAX_STRUCT_BYTES:
        violations.append(Violation(field, f"{size} bytes; at most {MAX_STRUCT_BYTES} are accepted"))
        return {}
    return _read_mapping(struct, field, violations, 1)


def write_struct(values: Mapping[str, Any]) -> Struct:
    """The inverse of :func:`read_struct`."""
    struct = Struct()
    struct.update(values)
    return struct


def _read_mapping(struct: Struct, field: str, violations: list[Violation], depth: int) -> dict[str, Any]:
    if depth > MAX_STRUCT_DEPTH:
        violations.append(Violation(field, f"nested deeper than {MAX_STRUCT_DEPTH} levels"))
        return {}
    return {key: _read_value(item, f"{field}.{key}", violations, depth) for key, item in struct.fields.items()}


def _read_list(items: ListValue, field: str, violations: list[Violation], depth: int) -> list[Any]:
    if depth > MAX_STRUCT_DEPTH:
        violations.append(Violation(field, f"nested deeper than {MAX_STRUCT_DEPTH} levels"))
        return []
    return [_read_value(item, f"{field}[{index}]", violations, depth) for index, item in enumerate(items.values)]


def _read_value(value: Value, field: str, violations: list[Violation], depth: int) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _read_mapping(value.struct_value, field, violations, depth + 1)
        case "list_value":
            return _read_list(value.list_value, field, violations, depth + 1)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                violations.append(Violation(field, f"{number} is not a number that JSON has; leave the key out"))
                return None
            return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT else number
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
