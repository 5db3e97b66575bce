"""YAML that anybody may have written: whatever is wrong with it is one error, and a few lines stay a few lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_ITEMS = 1_000_000
"""Items that a document may stand for, once every alias is replaced by what it names."""

_WHAT_CONSTRUCTORS_RAISE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Of PyYAML, beside its own errors: for ``!!int ''``, ``!!bool maybe``, ``!!timestamp x`` and the like."""


class YamlTextError(ValueError):
    """A text is not YAML, or stands for more than it may; the message says why in one line."""


def read_yaml(text: str, construct: Callable[[str], Any]) -> Any:
    """What ``construct``, such as ``yaml.safe_load``, makes of ``text``.

    Raises:
        YamlTextError: it is no YAML, has a value that its tag cannot have, or aliases that go in a circle or stand for
            more than :data:`MAX_ITEMS`.
    """
    import yaml  # late: asking for help needs no YAML

    try:
        value = construct(text)
    except yaml.YAMLError as error:
        raise YamlTextError(" ".join(str(error).split())) from error
    except _WHAT_CONSTRUCTORS_RAISE as error:
        raise YamlTextError(
            f"a value is not of the kind that its tag says ({type(error).__name__}: {error})"
        ) from error
    if "*" in text and "&" in text:
        _measure(value, {})
    return value


def _measure(value: Any, known: dict[int, int | None]) -> int:
    """Items in ``value``, each as often as it is reached. ``known``: by ``id``; None for what is being measured."""
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) in known:
        size = known[id(value)]
        if size is None:
            raise YamlTextError("an alias stands for something that it is a part of")
        return size
    known[id(value)] = None
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    size = 1 + sum(_measure(part, known) for part in parts)
    if size > MAX_ITEMS:
        raise YamlTextError(f"its aliases stand for more than {MAX_ITEMS} items")
    known[id(value)] = size
    return size
