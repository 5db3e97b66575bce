"""Jobs and their parts to and from plain JSON values.

Dataclasses become objects, tuples become arrays, enums their values; unions are told apart by a ``"type"`` key. Reading
ignores keys that it does not know, so that an older server can open what a newer one wrote.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Hashable, Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from lmms_eval_grpc.jobs.events import Completed, Failed, NotStarted, StateChange, Stopped
from lmms_eval_grpc.jobs.results import EvaluationResult, MergeResult, Progress, TaskResult
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeSpec

T = TypeVar("T")

_TAGGED: dict[type[Any], str] = {
    EvaluationSpec: "evaluation_spec",
    MergeSpec: "merge_spec",
    StateChange: "state_change",
    TaskResult: "task_result",
    Progress: "progress",
    EvaluationResult: "evaluation_result",
    MergeResult: "merge_result",
    Completed: "completed",
    Failed: "failed",
    Stopped: "stopped",
    NotStarted: "not_started",
}
_BY_TAG = {tag: kind for kind, tag in _TAGGED.items()}


class DecodeError(ValueError):
    """A text that :func:`encode` of this release could not have written."""


def encode(value: object) -> str:
    """``value`` as compact JSON. NaN and infinities are written as Python's ``json`` writes them."""
    return _ENCODER.encode(value)


def decode(kind: type[T] | types.UnionType, text: str) -> T:
    """Reads what :func:`encode` wrote. ``kind`` is a dataclass, a tuple of one, or a union of those in the tag table.

    Raises:
        DecodeError: the text is damaged, or says something that a later release has a word for and this one has not.
    """
    try:
        decoded: T = from_plain(kind, json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DecodeError(f"{type(error).__name__}: {error}") from error
    return decoded


def _spell_out(value: object) -> Any:
    """One level of what JSON has no word for. Its encoder, which is quick, comes back with what is below."""
    kind: Any = type(value)
    names = _names(kind)
    if names is not None:
        plain = {name: getattr(value, name) for name in names}
        tag = _TAGGED.get(kind)
        return plain if tag is None else {"type": tag, **plain}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} cannot be stored")


@cache
def _names(kind: type[Any]) -> tuple[str, ...] | None:
    """Those of a dataclass's fields; None for another type."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=_spell_out)


def from_plain(kind: Any, plain: Any) -> Any:
    """The value that JSON's own types stand for, guided by the annotation ``kind``."""
    if plain is None or kind is Any:
        return plain
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _from_union(typing.get_args(kind), plain)
    if origin is tuple:
        (item, _) = typing.get_args(kind)
        return tuple(from_plain(item, entry) for entry in plain)
    if origin is not None and issubclass(origin, Mapping):
        (_, item) = typing.get_args(kind)
        return {key: from_plain(item, entry) for key, entry in plain.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: from_plain(hints[name], item) for name, item in plain.items() if name in hints})
    return kind(plain) if kind is float else plain


def _from_union(kinds: tuple[Any, ...], plain: Any) -> Any:
    if isinstance(plain, dict) and plain.get("type") in _BY_TAG:
        return from_plain(_BY_TAG[plain["type"]], plain)
    inner = [kind for kind in kinds if kind is not type(None)]
    if len(inner) > 1:
        told = plain.get("type") if isinstance(plain, dict) else plain
        raise ValueError(f"{told!r} is none of {', '.join(_TAGGED[kind] for kind in inner)}")
    return from_plain(inner[0], plain)


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)
