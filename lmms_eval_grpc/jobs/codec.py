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
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
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
    if kind is Any:
        return plain
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        kinds = typing.get_args(kind)
        return None if plain is None and type(None) in kinds else _from_union(kinds, plain)
    if origin is tuple:
        (item, _) = typing.get_args(kind)
        if not isinstance(plain, list):
            raise TypeError(f"{_shown(plain)} is not a list")
        return tuple(from_plain(item, entry) for entry in plain)
    if origin is not None and issubclass(origin, Mapping):
        (_, item) = typing.get_args(kind)
        return {key: from_plain(item, entry) for key, entry in plain.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: from_plain(hints[name], item) for name, item in plain.items() if name in hints})
    return _scalar(kind, plain)


def _scalar(kind: Any, plain: Any) -> Any:
    """A text, a number or a boolean, which must be of its own type: what is of another could not be told to anybody."""
    accepted = (int, float) if kind is float else kind
    if not isinstance(plain, accepted) or (isinstance(plain, bool) and kind is not bool):
        raise TypeError(f"{_shown(plain)} is not of type {kind.__name__}")
    if kind is int and not -(2**63) <= plain < 2**63:
        raise OverflowError(f"{_shown(plain)} has more than 64 bits")
    return float(plain) if kind is float else plain


def _shown(plain: Any) -> str:
    text = repr(plain)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _from_union(kinds: tuple[Any, ...], plain: Any) -> Any:
    tagged = _BY_TAG.get(plain.get("type", "")) if isinstance(plain, dict) else None
    if tagged is not None and tagged in kinds:
        return from_plain(tagged, plain)
    inner = [kind for kind in kinds if kind is not type(None)]
    if len(inner) > 1:
        told = plain.get("type") if isinstance(plain, dict) else plain
        raise ValueError(f"{_shown(told)} is none of {', '.join(_TAGGED[kind] for kind in inner)}")
    return from_plain(inner[0], plain)


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)
