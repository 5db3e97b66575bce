"""``cancel``: stops a job."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import to_document


def run(args: argparse.Namespace, output: Output) -> int:
    """A job that has ended is left as it is, which is no error."""
    with connect(args) as client:
        cancelled = client.cancel_job(args.job_id, args.reason)
        if output.as_json:
            output.document(to_document(client.get(args.job_id)))
        else:
            output.line(cancelled["message"])
    return ExitCode.OK
