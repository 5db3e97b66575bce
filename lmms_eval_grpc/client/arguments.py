"""Arguments as people write them: lmms-eval's ``k=v,…`` strings, and the values that can travel as JSON."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

_EXACT_INTEGERS = 2**53
"""A `Struct` stores doubles; integers beyond this travel as strings."""


def parse_arg_string(text: str) -> dict[str, Any]:
    """Reads lmms-eval's argument string, such as ``temperature=0,until=["a","b"],do_sample=false``.

    Pairs are separated by commas outside quotes, braces and brackets; the key ends at the first ``=``. A value becomes
    a boolean (true or false in any case), an integer (digits only), a float (whatever else reads as one, so "-1" is
    -1.0), or stays the text that it is, quotes included.

    Raises:
        ValueError: a part has no ``=`` or no key.
    """
    arguments = {}
    for part in _split_at_commas(text.strip()):
        key, separator, value = part.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"{part!r} is not of the form key=value")
        arguments[key.strip()] = _read_value(value)
    return arguments


def to_json_value(value: Any, path: str) -> Any:
    """Turns `value` into what JSON can say, without changing its meaning.

    Numbers of other libraries become Python's, tuples become lists, paths become text, and integers beyond 2^53 become
    text because a `Struct` could not keep them exact.

    Raises:
        ValueError: JSON cannot say it; the message names `path`, the value and the remedy.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value) if abs(int(value)) <= _EXACT_INTEGERS else str(int(value))
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value!r}, which JSON cannot say; give it as text")
        return float(value)
    if isinstance(value, Mapping):
        return {_text_key(key, path): to_json_value(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise ValueError(
        f"{path} is a {type(value).__name__}, which cannot travel as JSON;"
        " use text, numbers, booleans, None, lists and dictionaries"
    )


def from_json_value(value: Any) -> Any:
    """Undoes what a `Struct` does to integers: doubles without a fraction come back as integers."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_INTEGERS:
        return int(value)
    if isinstance(value, dict):
        return {key: from_json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json_value(item) for item in value]
    return value


def _text_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{path} has the key {key!r}; keys must be text")
    return key


def _split_at_commas(text: str) -> list[str]:
    parts: list[str] = []
    start, depth, quote = 0, 0, ""
    for index, character in enumerate(text):
        if character in "\"'" and text[index - 1 : index] != "\\":
            quote = character if not quote else "" if character == quote else quote
        elif quote:
            continue
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _read_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.isdecimal():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
