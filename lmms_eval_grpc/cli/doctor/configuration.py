"""Whether the settings can be read and go together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.server import config_sources
from lmms_eval_grpc.server.config import ServerArgs, settings
from lmms_eval_grpc.server.config_sources import load_args
from lmms_eval_grpc.server.settings import ConfigError

CHECK = "settings"


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[Setup, list[Finding]]:
    """The set-up that flags, environment and file ask for, read as ``serve`` reads it. Where that fails the other
    checks go on with as much of it as can be read."""
    remarks = _Remarks()
    config_sources.logger.addHandler(remarks)
    config_sources.logger.propagate = False
    try:
        args = load_args(flags, environ)
    except ConfigError as error:
        remedy = "mend it; the other checks go on without what is wrong"
        failures = [failure(CHECK, problem, remedy) for problem in error.problems]
        return Setup(_what_can_be_read(flags, environ), environ), failures
    except ImportError as error:
        remedy = 'install what the server needs: pip install "lmms-eval-grpc[server]"'
        return Setup(_what_can_be_read(flags, environ), environ), [failure(CHECK, str(error), remedy)]
    finally:
        config_sources.logger.propagate = True
        config_sources.logger.removeHandler(remarks)
    changed = [setting.name for setting in settings() if getattr(args, setting.name) != setting.default]
    told = f"{', '.join(changed)} set; the others are as they come" if changed else "all as they come"
    findings = [ok(CHECK, told)]
    findings += [warning(CHECK, text, "correct the name, or unset the variable") for text in remarks.texts]
    return Setup(args, environ), findings


def check_combination(setup: Setup) -> Iterator[Finding]:
    """Settings that a server would not start with."""
    for check in (setup.args.check_exposure, setup.args.check_executor):
        try:
            check()
        except ConfigError as error:
            yield failure(CHECK, str(error), "change one of the settings")


def _what_can_be_read(flags: Mapping[str, Any], environ: Mapping[str, str]) -> ServerArgs:
    without_file = {name: value for name, value in flags.items() if name != "config"}
    for some, variables in ((without_file, environ), (without_file, {}), ({}, environ)):
        try:
            return load_args(some, variables)
        except ConfigError:
            continue
    return ServerArgs()


class _Remarks(logging.Handler):
    """Keeps what the loader logs."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
