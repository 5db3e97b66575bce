"""``resume``: has jobs started again."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.commands.queue import show_now
from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output


def run(args: argparse.Namespace, output: Output) -> int:
    """A queue that is not paused stays as it is."""
    with connect(args) as client:
        show_now(client.resume_queue(), output)
    return ExitCode.OK
