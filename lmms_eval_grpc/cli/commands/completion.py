"""``completion``: the script that completes the command line in a shell, and the names that it asks for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from itertools import islice

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.parser import SHELLS
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client import EvalClient

_NEWEST = 50
"""Jobs to offer."""
_PATIENCE = 2.0
"""Seconds that a key press may wait for a server."""
_PLAIN = re.compile(r"[\w.:/@%+=,-]+", re.ASCII)
"""Names that mean themselves in every shell. Others, such as ``$(reboot)``, bash would run when it splits what it is
offered, and all shells once the completed line is entered."""


def run(args: argparse.Namespace, output: Output) -> int:
    """Prints the script, or with ``--names`` what the server calls its jobs, models or tasks."""
    if args.names:
        with connect(args, timeout=_PATIENCE) as client:
            for name in _list_names(client, args.names):
                output.line(name)
        return ExitCode.OK
    if args.shell is None:
        raise UsageError(f"completion needs a shell: {', '.join(SHELLS)}")
    try:
        from lmms_eval_grpc.cli.completion import make_script

        script = make_script(args.shell)
    except ImportError as error:
        raise UsageError('completion needs shtab; install it with: pip install "lmms-eval-grpc[completion]"') from error
    output.line(script)
    return ExitCode.OK


def _list_names(client: EvalClient, kind: str) -> Iterable[str]:
    if kind == "jobs":
        names: Iterable[str] = [job.job_id for job in islice(client.list_jobs(page_size=_NEWEST), _NEWEST)]
    else:
        names = client.list_models() if kind == "models" else client.list_tasks()
    return [name for name in names if _PLAIN.fullmatch(name)]
