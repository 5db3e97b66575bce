"""``doctor``: whether a server can run here, or whether one that runs is well; and what to do."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.doctor.finding import Finding, Level
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output

_TIMEOUT = 5.0
"""Seconds for each call to a server."""


def run(args: argparse.Namespace, output: Output) -> int:
    """A line per check, as soon as it is known."""
    if getattr(args, "address_given", False):
        from lmms_eval_grpc.cli.doctor.running import check_running

        with connect(args, _TIMEOUT) as client:
            return _tell(check_running(client, args.address), output)
    return _tell(_check_here(args), output)


def _check_here(args: argparse.Namespace) -> Iterable[Finding]:
    from lmms_eval_grpc.cli.doctor.configuration import load
    from lmms_eval_grpc.cli.doctor.run import check_setup
    from lmms_eval_grpc.server.config import settings

    own = {setting.name for setting in settings()} | {"config"}
    setup, findings = load({name: value for name, value in vars(args).items() if name in own}, os.environ)
    yield from findings
    yield from check_setup(setup)


def _tell(findings: Iterable[Finding], output: Output) -> int:
    counts = dict.fromkeys(Level, 0)
    told = []
    for finding in findings:
        counts[finding.level] += 1
        told.append(finding)
        if not output.as_json:
            output.line(f"{finding.level:<8} {finding.check:<16} {' '.join(finding.message.split())}")
            if finding.remedy:
                output.line(f"{'':<8} {'':<16} -> {finding.remedy}")
    if output.as_json:
        checks = [
            {"check": one.check, "level": one.level.value, "message": one.message, "remedy": one.remedy} for one in told
        ]
        output.document({"checks": checks, "warnings": counts[Level.WARNING], "failures": counts[Level.FAILURE]})
    else:
        output.line(f"{counts[Level.FAILURE]} failures, {counts[Level.WARNING]} warnings, {counts[Level.OK]} ok")
    return ExitCode.JOB_FAILED if counts[Level.FAILURE] else ExitCode.OK
