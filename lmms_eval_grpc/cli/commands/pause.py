"""``pause``: has no further jobs started."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.commands.queue import show_now
from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output


def run(args: argparse.Namespace, output: Output) -> int:
    """Pausing a paused queue changes its reason."""
    with connect(args) as client:
        show_now(client.pause_queue(args.reason), output)
    return ExitCode.OK
