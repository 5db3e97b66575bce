"""Where settings come from: flags, environment variables, a file."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.yaml_text import YamlTextError, read_yaml
from lmms_eval_grpc.server.config import ServerArgs, settings
from lmms_eval_grpc.server.settings import ENVIRONMENT_PREFIX, ConfigError, Setting

logger = logging.getLogger(__name__)

_METAVARS: Mapping[type, str] = {str: "TEXT", int: "N", float: "SECONDS", Path: "PATH"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag per setting, and ``--config`` for the file. A flag that is not given leaves nothing behind."""
    for setting in settings():
        shown = ",".join(map(str, setting.default)) if setting.repeated else setting.default
        text = f"{setting.rules['help']} [{setting.variable}; default: {'none' if shown in (None, '') else shown}]"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%"), "dest": setting.name}
        if setting.kind is bool:
            parser.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **options)
        else:
            action = "append" if setting.repeated else "store"
            parser.add_argument(setting.flag, action=action, metavar=_METAVARS[setting.kind], **options)
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="YAML or TOML file with settings, by these names."
    )


def load_args(
    flags: Mapping[str, Any] | argparse.Namespace | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
) -> ServerArgs:
    """The settings that flags, environment and file ask for together.

    Args:
        flags: settings by field name, as :func:`add_flags` leaves them: text, or values of the field's own type.
            ``config`` among them names the file, unless ``config_file`` does.
        environ: environment variables; None: this process's.
        config_file: YAML (``.yaml``, ``.yml``) or TOML (``.toml``) file with field names as keys.

    Raises:
        ConfigError: unknown keys, wrong types and values out of range, all of them, a line each; or a file that cannot
            be read.
    """
    given = dict(vars(flags) if isinstance(flags, argparse.Namespace) else flags or {})
    named_file = given.pop("config", None)
    file = config_file if config_file is not None else named_file
    by_name = {setting.name: setting for setting in settings()}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []

    def take(name: str, source: str, read: Callable[[], Any]) -> None:
        try:
            values[name], sources[name] = read(), source
        except ConfigError as error:
            problems.extend(error.problems)

    for key, value in (read_file(Path(file)) if file is not None else {}).items():
        name = key.replace("-", "_") if isinstance(key, str) else key
        source = f"{file}, key {key!r}"
        if setting := by_name.get(name):
            take(name, source, partial(setting.check, value, source))
        else:
            problems.append(_unknown(f"{file}: unknown key {key!r}", str(name)))
    for variable, text in (os.environ if environ is None else environ).items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in by_name:
            # Not an error: the client and other programs of this project read variables of the same prefix.
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.85)
            if near:
                logger.warning(
                    "environment variable %s is no setting; did you mean %s?", variable, by_name[near[0]].variable
                )
            continue
        source = f"environment variable {variable}"
        take(name, source, partial(_read_text, by_name[name], text, source))
    for name, value in given.items():
        if (setting := by_name.get(name)) is None:
            problems.append(_unknown(f"unknown flag --{name.replace('_', '-')}", name))
            continue
        source = f"flag {setting.flag}"
        reads_text = isinstance(value, str) and not setting.repeated
        take(name, source, partial(_read_text if reads_text else Setting.check, setting, value, source))
    if problems:
        raise ConfigError(*problems)
    return ServerArgs(**values, sources=sources)


def _read_text(setting: Setting, text: str, source: str) -> Any:
    return setting.check(setting.parse(text, source), source)


def read_file(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML or TOML file."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not TOML: {error}") from error
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: the name must end in .yaml, .yml or .toml")
    import yaml

    try:
        content = read_yaml(text, yaml.safe_load)
    except YamlTextError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: must hold settings by name, but holds {type(content).__name__}")
    return content or {}


def _unknown(problem: str, name: str) -> str:
    names = [setting.name for setting in settings()]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{problem}{hint} Settings are: {', '.join(names)}"


def describe(args: ServerArgs) -> str:
    """One line per setting; those that differ from their default say where they were set."""
    lines = []
    for setting in settings():
        value = getattr(args, setting.name)
        shown = ", ".join(map(str, value)) if setting.repeated else value
        where = "" if value == setting.default else f"  ({args.sources.get(setting.name, 'set by the program')})"
        lines.append(f"{setting.name} = {'none' if shown in (None, '') else shown}{where}")
    return "\n".join(lines)
