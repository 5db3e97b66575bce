"""``eval --config FILE``: one run or several, written down as YAML."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli import arguments, flags_eval
from lmms_eval_grpc.cli.eval_settings import Problems, check_texts, resolve_values
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.engine.yaml_text import YamlTextError, read_yaml

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<bare>\w+))")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileRun:
    """One mapping of the file."""

    values: Mapping[str, Any]
    """By the names of ``flags_eval.DEFAULTS``, as the flags of those names would have given them."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables, not expanded yet."""


def read_runs(path: Path) -> list[FileRun]:
    """The runs in a file: a mapping is one, a list of mappings several.

    Raises UsageError with everything that is wrong: unknown keys, and values that the flag of that name refuses.
    """
    import yaml  # late: asking for help needs no YAML

    try:
        content = read_yaml(path.read_text(encoding="utf-8"), yaml.safe_load)
    except (OSError, UnicodeDecodeError, YamlTextError) as error:
        raise UsageError(f"--config {path}: cannot be read: {error}") from error
    mappings = content if isinstance(content, list) else [content]
    if not mappings or not all(isinstance(mapping, Mapping) for mapping in mappings):
        raise UsageError(f"--config {path}: must hold a mapping, or a list of mappings for several runs")
    found: list[Problems] = [[] for _ in mappings]
    runs = [_read_run(mapping, problems) for mapping, problems in zip(mappings, found, strict=True)]
    if any(found):  # otherwise they are told with what is wrong on the command line
        for run, problems in zip(runs, found, strict=True):
            problems += check_texts(resolve_values(run.values))
        places = [f"[{number}]." if isinstance(content, list) else "" for number in range(len(runs))]
        told = [(place + key, text) for place, ones in zip(places, found, strict=True) for key, text in ones]
        raise UsageError(f"--config {path} is not valid", told)
    return runs


def _read_run(mapping: Mapping[Any, Any], problems: Problems) -> FileRun:
    parser = argparse.ArgumentParser(add_help=False)
    flags_eval.add_flags(parser)
    flags = {action.dest: action for action in parser._actions if action.dest != "config"}
    values: dict[str, Any] = {}
    variables: dict[str, str] = {}
    for key, value in mapping.items():
        if key == "env":
            variables = _read_variables(value, problems)
        elif key not in flags:
            near = difflib.get_close_matches(str(key).replace("-", "_"), flags, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            problems.append((str(key), f"is no key; {hint}The keys are: env, {', '.join(sorted(flags))}"))
        else:
            try:
                converted = _convert(flags[key], value)
            except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
                problems.append((str(key), f"{value!r} is not valid: {error}"))
            else:
                if converted is not None:
                    values[key] = converted
    return FileRun(values, variables)


def _convert(flag: argparse.Action, value: Any) -> Any:
    """``value`` as the flag would have made it of text; null is as if the key were not there."""
    if flag.dest == "reasoning_tags" and (value is None or value is False):
        return "none"
    if value is None:
        return None
    if flag.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("use true or false")
        return value
    if isinstance(value, Mapping):
        if flag.type is not arguments.parse_mapping:
            raise ValueError("use a single value, not a mapping")
        return dict(value)
    if isinstance(value, list):
        return _convert_list(flag, value)
    if isinstance(value, bool):
        if not flag.choices:
            raise ValueError("use a value, not true or false")
        value = str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError(f"use text or a number, not a {type(value).__name__}")
    converted = flag.type(str(value)) if callable(flag.type) else str(value)
    if flag.choices and converted not in flag.choices:
        raise ValueError(f"use one of {', '.join(map(str, flag.choices))}")
    return converted


def _convert_list(flag: argparse.Action, value: list[Any]) -> Any:
    if flag.dest == "reasoning_tags":
        return json.dumps(value)
    if flag.dest == "seed":
        return ",".join(str(item) for item in value)
    if flag.type is arguments.parse_names:
        return [name for item in value for name in arguments.parse_names(str(item))]
    raise ValueError("use a single value, not a list")


def _read_variables(section: Any, problems: Problems) -> dict[str, str]:
    if not isinstance(section, Mapping):
        problems.append(("env", f"must be a mapping of environment variables, but is {section!r}"))
        return {}
    variables = {}
    for name, value in section.items():
        if isinstance(value, str | int | float):
            variables[str(name)] = str(value).lower() if isinstance(value, bool) else str(value)
        else:
            problems.append((f"env.{name}", f"must be text or a number, but is {value!r}"))
    return variables


@contextlib.contextmanager
def exported(variables: Mapping[str, str], tell: Callable[[str], None]) -> Iterator[None]:
    """Sets the variables, expanded one after the other, while the block lasts; tells them, secrets masked."""
    before = {name: os.environ.get(name) for name in variables}
    shown = []
    for name, template in variables.items():
        os.environ[name] = expand(template)
        used = [match["braced"] or match["bare"] for match in _VARIABLE.finditer(template)]
        secret = any(_SECRET.search(word) for word in (name, *used))
        shown.append(f"{name}={'***' if secret else os.environ[name]}")
    if shown:
        tell(f"environment: {', '.join(shown)}")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def expand(template: str) -> str:
    """``$NAME``, ``${NAME}`` and ``${NAME:-default}`` replaced; a variable that is not set and has no default stays."""

    def replace(match: re.Match[str]) -> str:
        value = os.environ.get(match["braced"] or match["bare"])
        if match["default"] is not None:
            return value or expand(match["default"])
        return match[0] if value is None else value

    return _VARIABLE.sub(replace, template)
