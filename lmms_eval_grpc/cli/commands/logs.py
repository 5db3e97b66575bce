"""``logs``: what a job's worker printed."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output


def run(args: argparse.Namespace, output: Output) -> int:
    """The text as it is; as JSON lines ``{"text": …}``, in the pieces in which it came."""
    with connect(args) as client:
        # A stream goes on trying while a server is away; a call that fails tells at once that there is none.
        client.get(args.job_id)
        for text in client.iter_logs(args.job_id, args.follow, -args.tail if args.tail else 0):
            if output.as_json:
                output.record({"text": text})
            else:
                output.text(text)
    return ExitCode.OK
