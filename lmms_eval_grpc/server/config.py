"""The server's settings: one dataclass, from which flags, environment variables and file keys derive.

Precedence: flags, then the environment (``LMMS_EVAL_GRPC_<FIELD>``), then the configuration file, then the defaults.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import ipaddress
import logging
import math
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "LMMS_EVAL_GRPC_"

LOG_LEVELS = ("debug", "info", "warning", "error")
EXECUTORS = ("local", "ray")


class ConfigError(ValueError):
    """A setting is wrong. The message names its source, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class ServerArgs:
    """Settings of one server. ``host``, ``port``, ``max_completed_jobs`` and ``temp_dir_prefix`` are lmms-eval's names.

    Raises:
        ConfigError: a value has the wrong type or lies out of range.
    """

    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on. Others than loopback need allow_remote."},
    )
    port: int = field(
        default=50051,
        metadata={"help": "TCP port to listen on; 0: any free one.", "minimum": 0, "maximum": 65535},
    )
    unix_socket: Path | None = field(
        default=None,
        metadata={"help": "Listen on this Unix socket instead of host and port."},
    )
    allow_remote: bool = field(
        default=False,
        metadata={
            "help": "Allow a host that other machines can reach. There is neither encryption nor login: whoever reaches"
            " it can run code."
        },
    )
    state_dir: Path | None = field(
        default=None,
        metadata={
            "help": "Folder of the job store and the jobs' files, for one server at a time."
            " Unset: lmms-eval-grpc below $XDG_STATE_HOME or ~/.local/state."
        },
    )
    temp_dir_prefix: str = field(
        default="",
        metadata={
            "help": "When set and state_dir is not: keep the state in a new temporary folder whose name starts so;"
            " it is removed with all jobs when the server stops."
        },
    )
    max_completed_jobs: int = field(
        default=1000,
        metadata={"help": "Finished jobs that are kept; the oldest are removed first.", "minimum": 1},
    )
    finished_job_ttl: float | None = field(
        default=None,
        metadata={"help": "Seconds after which a finished job is removed; unset: never by age.", "above": 0},
    )
    max_attempts: int = field(
        default=5,
        metadata={
            "help": "Times that the server, or a job's machine, may die while the job runs before the job is taken for"
            " the cause and fails.",
            "minimum": 1,
        },
    )
    heartbeat_timeout: float | None = field(
        default=120.0,
        metadata={
            "help": "Seconds without a sign of life after which a worker counts as hung and is killed; none: never.",
            "minimum": 5,  # a healthy one gives a sign every two seconds
        },
    )
    stall_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds without progress (a sample answered or scored, a stage entered, a mebibyte read) after"
            " which a worker counts as hung and is killed, where the job names no bound; unset: never.",
            "above": 0,
        },
    )
    max_queued_jobs: int = field(
        default=1000,
        metadata={"help": "Jobs that may wait at once.", "minimum": 1},
    )
    max_watches: int = field(
        default=10_000,
        metadata={"help": "Streams that may be open at once.", "minimum": 1},
    )
    max_watches_per_client: int = field(
        default=5_000,
        metadata={"help": "Streams that one client address may have open at once.", "minimum": 1},
    )
    max_request_bytes: int = field(
        default=8 * 1024 * 1024,
        metadata={"help": "Bytes of the largest request.", "minimum": 65_536},
    )
    include_path: tuple[Path, ...] = field(
        default=(),
        metadata={"help": "Folder with task YAML files, beside those that ship; may be repeated."},
    )
    devices: tuple[str, ...] = field(
        default=("auto",),
        metadata={
            "help": "Device to run jobs on, such as cuda:0; may be repeated, cpu too. auto: every GPU, or the CPU.",
            "minimum_length": 1,
        },
    )
    executor: str = field(
        default="local",
        metadata={"help": "Where jobs run: local: here; ray: in a Ray cluster.", "choices": EXECUTORS},
    )
    ray_address: str = field(
        default="",
        metadata={
            "help": "Cluster to run jobs in: auto, host:port or ray://host:port."
            " Unset: one that is started here and ends with the server."
        },
    )
    ray_cpu_slots: int | None = field(
        default=None,
        metadata={
            "help": "Jobs that a node without GPUs runs at once. Unset: one in a cluster without any GPU, else none.",
            "minimum": 0,
        },
    )
    ray_lease: float = field(
        default=20.0,
        metadata={
            "help": "Seconds after which a node that is cut off has ended its job, which then goes on elsewhere.",
            "minimum": 3,
        },
    )
    ray_idle_timeout: float = field(
        default=30.0,
        metadata={
            "help": "Seconds for which a finished job's GPUs, and its imports, are kept for the next job before Ray has"
            " them back.",
            "minimum": 0,
        },
    )
    torch_threads: int | None = field(
        default=None,
        metadata={"help": "Threads that torch may use in each worker; unset: its own choice.", "minimum": 1},
    )
    use_template: bool = field(
        default=True,
        metadata={
            "help": "Fork workers from a process that has imported torch once; off: start each from nothing, slowly."
        },
    )
    prepare_next: bool = field(
        default=True,
        metadata={"help": "Prepare the next job's tasks, data and processor on the CPU while a job runs."},
    )
    keep_model_warm: float | None = field(
        default=None,
        metadata={
            "help": "Seconds for which a completed job's model stays on its device, for a next job with the same model"
            " or another checkpoint of it; unset or 0: it is freed at once.",
            "minimum": 0,
        },
    )
    track: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Tracker that is told every evaluation's results: tensorboard:FOLDER, wandb:PROJECT or"
            " mlflow:EXPERIMENT; may be repeated."
        },
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Let requests ask for Python code that comes with a checkpoint to be run."},
    )
    shutdown_grace: float = field(
        default=5.0,
        metadata={
            "help": "Seconds that running jobs and open calls get after the first signal. A job that needs longer"
            " continues at the next start.",
            "minimum": 0,
        },
    )
    address_file: Path | None = field(
        default=None,
        metadata={"help": "File to write the server's address to once it is ready."},
    )
    log_level: str = field(
        default="info",
        metadata={"help": "Least severity that is logged.", "choices": LOG_LEVELS},
    )
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each setting that :func:`load_args` found came from; not a setting itself."""

    def __post_init__(self) -> None:
        for setting in settings():
            value = setting.check(getattr(self, setting.name), self.sources.get(setting.name) or setting.name)
            object.__setattr__(self, setting.name, value)

    def check_executor(self) -> None:
        """Raises :class:`ConfigError` when something is set that only the other executor heeds."""
        by_name = {setting.name: setting for setting in settings()}
        foreign = (
            ("devices", "keep_model_warm")
            if self.executor == "ray"
            else tuple(name for name in by_name if name.startswith("ray_"))
        )
        for name in foreign:
            value = getattr(self, name)
            if value != by_name[name].default:
                remedy = f"or set executor to {'local' if self.executor == 'ray' else 'ray'}"
                raise ConfigError(
                    f"{self.sources.get(name, name)}: {value!r} has no effect with executor {self.executor};"
                    f" leave it out, {remedy}"
                )

    def check_exposure(self) -> None:
        """Raises :class:`ConfigError` when other machines could reach the server and nobody said that they may."""
        if self.unix_socket is None and not self.allow_remote and not is_loopback(self.host):
            raise ConfigError(
                f"{self.sources.get('host', 'host')}: {self.host!r} can be reached from other machines, and this server"
                " has neither encryption nor login: whoever reaches it can run code here. Use 127.0.0.1 (with an ssh"
                " tunnel from elsewhere), or set allow_remote if the network is trusted"
            )


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


@functools.cache
def settings() -> tuple[Setting, ...]:
    """Every setting, in the dataclass's order."""
    hints = typing.get_type_hints(ServerArgs)
    return tuple(
        _describe_field(item, hints[item.name]) for item in dataclasses.fields(ServerArgs) if "help" in item.metadata
    )


def _describe_field(item: dataclasses.Field[Any], annotation: Any) -> Setting:
    repeated = typing.get_origin(annotation) is tuple
    optional = isinstance(annotation, types.UnionType)
    kind = typing.get_args(annotation)[0] if repeated or optional else annotation
    return Setting(item.name, kind, optional, repeated, item.default, item.metadata)


_ACCEPTED: Mapping[type, tuple[type, ...]] = {float: (int, float), Path: (str, Path)}
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
        ConfigError: an unknown key, a wrong type, a value out of range, or a file that cannot be read.
    """
    given = dict(vars(flags) if isinstance(flags, argparse.Namespace) else flags or {})
    named_file = given.pop("config", None)
    file = config_file if config_file is not None else named_file
    by_name = {setting.name: setting for setting in settings()}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in (read_file(Path(file)) if file is not None else {}).items():
        name = key.replace("-", "_") if isinstance(key, str) else key
        source = f"{file}, key {key!r}"
        setting = by_name.get(name) or _unknown(f"{file}: unknown key {key!r}", str(name))
        values[name], sources[name] = setting.check(value, source), source
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
        values[name], sources[name] = by_name[name].check(by_name[name].parse(text, source), source), source
    for name, value in given.items():
        setting = by_name.get(name) or _unknown(f"unknown flag --{name.replace('_', '-')}", name)
        source = f"flag {setting.flag}"
        parsed = setting.parse(value, source) if isinstance(value, str) and not setting.repeated else value
        values[name], sources[name] = setting.check(parsed, source), source
    return ServerArgs(**values, sources=sources)


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
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: must hold settings by name, but holds {type(content).__name__}")
    return content or {}


def _unknown(problem: str, name: str) -> typing.NoReturn:
    names = [setting.name for setting in settings()]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(f"{problem}{hint} Settings are: {', '.join(names)}")


def describe(args: ServerArgs) -> str:
    """One line per setting; those that differ from their default say where they were set."""
    lines = []
    for setting in settings():
        value = getattr(args, setting.name)
        shown = ", ".join(map(str, value)) if setting.repeated else value
        where = "" if value == setting.default else f"  ({args.sources.get(setting.name, 'set by the program')})"
        lines.append(f"{setting.name} = {'none' if shown in (None, '') else shown}{where}")
    return "\n".join(lines)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
