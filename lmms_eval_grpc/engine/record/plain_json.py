"""Any value that a task's code may produce, as JSON that every language can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

_MAX_DEPTH = 32


def to_plain(value: Any, _depth: int = 0) -> Any:
    """``value`` made of None, bool, int, float, str, list and dict with str keys only.

    NaN and infinities become None, because JSON has no word for them. Numpy scalars and arrays become numbers and
    lists, sets sorted lists, bytes and images a short description, callables their name, anything else its ``str``.
    """
    # By exact type first: nearly all of what is written is of these, and it is written for every sample.
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _encodable(value)
    if value is None or kind is int or kind is bool:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is dict and _depth <= _MAX_DEPTH:
        depth = _depth + 1
        return {
            key if type(key) is str and key.isascii() else _key(key): to_plain(item, depth)
            for key, item in value.items()
        }
    if (kind is list or kind is tuple) and _depth <= _MAX_DEPTH:
        depth = _depth + 1
        return [to_plain(item, depth) for item in value]
    if isinstance(value, Enum):
        return to_plain(value.value, _depth)
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if _depth > _MAX_DEPTH:
        return str(value)
    return _container_to_plain(value, _depth + 1)


def _encodable(text: str) -> str:
    """A lone surrogate cannot be written as UTF-8; one odd response must not stop the whole file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def dump_line(value: Any) -> str:
    """``value`` as one line of JSON, without the line end."""
    return json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False)


def dump_document(value: Any) -> str:
    """``value`` as indented JSON, with a line end."""
    return json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _container_to_plain(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {_key(key): to_plain(item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, depth) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((to_plain(item, depth) for item in value), key=lambda item: (str(type(item)), str(item)))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name), depth) for field in fields(value)}
    # Numpy, torch and PIL are known by what they offer, so that this module stays light.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return to_plain(value.tolist(), depth)
    if hasattr(value, "size") and hasattr(value, "mode") and hasattr(value, "tobytes"):
        return f"<{value.mode} image of {value.size[0]} x {value.size[1]}>"
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(to_plain(key))
    plain = to_plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
