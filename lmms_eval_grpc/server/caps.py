"""How large each part of a request may be, as one table over the fields of every request, and the check of a message
against it.

What is not in the table has the bounds of :data:`DEFAULT`. The proto files state the bounds beside the fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from lmms_eval_grpc.jobs.errors import Violation

MAX_VIOLATIONS = 50
"""The most that is told of one request."""


@dataclass(frozen=True, slots=True)
class Cap:
    """Bounds of one field. Those that do not apply to its type count for nothing."""

    characters: int = 4096
    """Of a string, of each string of a list, of a map's value."""
    key_characters: int = 255
    """Of a map's key."""
    entries: int = 64
    """Of a list or a map."""
    lines: bool = False
    """Whether a string may have tabs and more than one line. No string may have other control characters."""
    depth: int = 32
    """Levels of a ``Struct``."""
    nodes: int = 10_000
    """Values and keys of a ``Struct`` in all."""
    size: int = 256 * 1024
    """Bytes of a ``Struct``."""


DEFAULT = Cap()
_NAME = Cap(characters=1024)
_TEXT = Cap(characters=64 * 1024, lines=True)
_STRUCT = Cap(characters=64 * 1024, lines=True, key_characters=1024)
LABELS = Cap(characters=255, key_characters=63, entries=32)
_REASON = Cap(characters=1024, lines=True)

TABLE: Mapping[str, Cap] = {
    "EvaluationSpec.model": _NAME,
    "EvaluationSpec.model_args": _STRUCT,
    "EvaluationSpec.tasks": Cap(entries=1000),
    "EvaluationSpec.device": _NAME,
    "EvaluationSpec.gen_kwargs": _STRUCT,
    "EvaluationSpec.system_instruction": _TEXT,
    "EvaluationSpec.reasoning_tags": _TEXT,
    "EvaluationSpec.agentic_trace_mode": _NAME,
    "EvaluationSpec.track": Cap(entries=8),
    "EvaluationSpec.timezone": _NAME,
    "EvaluateRequest.labels": LABELS,
    "MergeCheckpointRequest.labels": LABELS,
    "ListJobsRequest.labels": LABELS,
    "ListTasksRequest.filter": _NAME,
    "CancelJobRequest.reason": _REASON,
    "PauseQueueRequest.reason": _REASON,
}
"""By message and field."""

_PACKAGE = "lmms_eval_grpc.v1."
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def cap_of(field: FieldDescriptor) -> Cap:
    """The bounds of a field."""
    return TABLE.get(field.full_name.removeprefix(_PACKAGE), DEFAULT)


def check_caps(request: Message) -> list[Violation]:
    """What of a request is larger than it may be, or has characters or numbers that nothing may have.

    Every part is looked at, but for what is in a list, map or ``Struct`` that is too large as a whole; takes a tenth of
    a millisecond for a usual request.
    """
    found = list(islice(_check_message(request, ""), MAX_VIOLATIONS + 1))
    if len(found) > MAX_VIOLATIONS:
        found[MAX_VIOLATIONS:] = [
            Violation("", f"more than {MAX_VIOLATIONS} values are wrong; the others are not told")
        ]
    return found


def _check_message(message: Message, prefix: str) -> Iterator[Violation]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        match value:
            case str():
                yield from _check_text(value, path, cap_of(field))
            case float():
                yield from _check_number(value, path)
            case Struct():
                yield from _check_struct(value, path, cap_of(field))
            case Message():
                yield from _check_message(value, f"{path}.")
            case bool() | int() | bytes():  # enums too; the domain has their bounds
                pass
            case _:
                yield from _check_many(field, value, path)


def _check_many(field: FieldDescriptor, values: Any, path: str) -> Iterator[Violation]:
    cap = cap_of(field)
    if len(values) > cap.entries:
        yield Violation(path, f"{len(values)} entries; at most {cap.entries} are accepted")
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        for key, value in sorted(values.items()):
            yield from _check_key(key, path, cap)
            yield from _check_text(value, f"{path}.{key[: cap.key_characters]}", cap)
    else:
        for index, value in enumerate(values):
            if isinstance(value, str):
                yield from _check_text(value, f"{path}[{index}]", cap)
            elif isinstance(value, Message):
                yield from _check_message(value, f"{path}[{index}].")


def _check_key(key: str, path: str, cap: Cap) -> Iterator[Violation]:
    if not 1 <= len(key) <= cap.key_characters:
        shown = key if len(key) <= cap.key_characters else key[: cap.key_characters] + "…"
        yield Violation(path, f"the key {shown!r} must have 1 to {cap.key_characters} characters, not {len(key)}")
    elif (found := _CONTROL.search(key)) is not None:
        yield Violation(path, f"the key {key!r} has the control character {found[0]!r}; leave it out")


def _check_text(text: str, path: str, cap: Cap) -> Iterator[Violation]:
    if len(text) > cap.characters:
        yield Violation(path, f"{len(text)} characters; at most {cap.characters} are accepted")
        return
    found = (_CONTROL_IN_LINES if cap.lines else _CONTROL).search(text)
    if found is not None:
        yield Violation(path, f"has the control character {found[0]!r} at position {found.start()}; leave it out")


def _check_number(number: float, path: str) -> Iterator[Violation]:
    if not math.isfinite(number):
        yield Violation(path, f"{number} is not a number that JSON has; leave it out")


def _check_struct(struct: Struct, path: str, cap: Cap) -> Iterator[Violation]:
    """Too large, too deep or too many is told of the whole, whose parts are not looked at then."""
    if (size := struct.ByteSize()) > cap.size:
        yield Violation(path, f"{size} bytes; at most {cap.size} are accepted")
        return
    nodes, deepest = _measure(struct, cap)
    if deepest > cap.depth:
        yield Violation(path, f"nested deeper than {cap.depth} levels")
    elif nodes > cap.nodes:
        yield Violation(path, f"more than {cap.nodes} keys and values")
    else:
        yield from _check_mapping(struct, path, cap)


def _measure(struct: Struct, cap: Cap) -> tuple[int, int]:
    """Values and keys of a ``Struct``, and its levels; counts no further than is needed to know that it is too much."""
    nodes, deepest = 0, 1
    stack: list[tuple[Any, int]] = [(struct.fields, 1)]
    while stack:
        items, depth = stack.pop()
        deepest = max(deepest, depth)
        is_mapping = hasattr(items, "keys")
        nodes += 2 * len(items) if is_mapping else len(items)
        if deepest > cap.depth or nodes > cap.nodes:
            break
        for value in items.values() if is_mapping else items:
            kind = value.WhichOneof("kind")
            if kind == "struct_value":
                stack.append((value.struct_value.fields, depth + 1))
            elif kind == "list_value":
                stack.append((value.list_value.values, depth + 1))
    return nodes, deepest


def _check_mapping(struct: Struct, path: str, cap: Cap) -> Iterator[Violation]:
    for key, value in struct.fields.items():
        told = list(_check_key(key, path, cap))
        yield from told
        if not told:
            yield from _check_value(value, f"{path}.{key}", cap)


def _check_value(value: Any, path: str, cap: Cap) -> Iterator[Violation]:
    match value.WhichOneof("kind"):
        case "string_value":
            yield from _check_text(value.string_value, path, cap)
        case "number_value":
            yield from _check_number(value.number_value, path)
        case "struct_value":
            yield from _check_mapping(value.struct_value, path, cap)
        case "list_value":
            for index, item in enumerate(value.list_value.values):
                yield from _check_value(item, f"{path}[{index}]", cap)
