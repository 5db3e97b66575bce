"""``drain``: has the server take no new jobs, and stop once its work is done."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.commands.queue import show_now
from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output


def run(args: argparse.Namespace, output: Output) -> int:
    """Does not wait for the server's end; ``queue --follow`` shows it."""
    with connect(args) as client:
        show_now(client.drain(finish_queued=args.finish_queued, timeout=args.timeout), output)
    return ExitCode.OK
