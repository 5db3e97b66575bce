"""One setting: its type, its bounds, and how its value is read from text."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT_PREFIX = "LMMS_EVAL_GRPC_"

_ACCEPTED: Mapping[type, tuple[type, ...]] = {float: (int, float), Path: (str, Path)}


class ConfigError(ValueError):
    """Settings are wrong. For each a line of the message names its source, the value and the remedy."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of :class:`ServerArgs` with what its annotation and metadata say."""

    name: str
    kind: type
    """``str``, ``int``, ``float``, ``bool`` or ``Path``: of the value, or of a list's items."""
    optional: bool
    repeated: bool
    default: Any
    rules: Mapping[str, Any]

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def expected(self) -> str:
        """The type in words."""
        words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}[
            self.kind
        ]
        return f"a list of {words.removeprefix('a ')}s" if self.repeated else words

    def parse(self, text: str, source: str) -> Any:
        """The value that ``text`` of a flag or an environment variable stands for."""
        if self.repeated:
            separator = os.pathsep if self.kind is Path else ","
            return tuple(part.strip() for part in text.split(separator) if part.strip())
        if self.optional and text.strip().lower() in ("", "none"):
            return None
        try:
            if self.kind is bool:
                return {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False,
                        "off": False}[text.strip().lower()]  # fmt: skip
            return self.kind(text)
        except (ValueError, KeyError):
            raise ConfigError(f"{source}: {text!r} is not {self.expected}") from None

    def check(self, value: Any, source: str) -> Any:
        """``value`` in the field's own type, once it passed the type and the bounds."""
        if self.repeated:
            items = [value] if isinstance(value, (str, Path)) else value
            if not isinstance(items, (list, tuple)):
                raise ConfigError(f"{source}: {value!r} is not {self.expected}")
            if len(items) < self.rules.get("minimum_length", 0):
                raise ConfigError(f"{source}: must not be empty")
            return tuple(self._check_one(item, source) for item in items)
        if value is None and self.optional:
            return None
        return self._check_one(value, source)

    def _check_one(self, value: Any, source: str) -> Any:
        accepted = _ACCEPTED.get(self.kind, (self.kind,))
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
            raise ConfigError(f"{source}: {value!r} is not {self.expected}")
        if self.kind is Path:
            if not str(value):
                raise ConfigError(f"{source}: an empty path")
            return Path(str(value)).expanduser()
        value = self.kind(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{source}: {value!r} is not {self.expected}")
        rules = self.rules
        if "choices" in rules and value not in rules["choices"]:
            raise ConfigError(f"{source}: {value!r} is not one of {', '.join(rules['choices'])}")
        if "above" in rules and not value > rules["above"]:
            raise ConfigError(f"{source}: {value!r} must be more than {rules['above']}")
        if "minimum" in rules and not value >= rules["minimum"]:
            raise ConfigError(f"{source}: {value!r} must be at least {rules['minimum']}")
        if "maximum" in rules and not value <= rules["maximum"]:
            raise ConfigError(f"{source}: {value!r} must be at most {rules['maximum']}")
        return value


def describe_field(item: dataclasses.Field[Any], annotation: Any) -> Setting:
    repeated = typing.get_origin(annotation) is tuple
    optional = isinstance(annotation, types.UnionType)
    kind = typing.get_args(annotation)[0] if repeated or optional else annotation
    return Setting(item.name, kind, optional, repeated, item.default, item.metadata)
