"""``priority``: moves a queued job within the queue."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import to_document


def run(args: argparse.Namespace, output: Output) -> int:
    """A job that does not wait any more cannot be moved."""
    with connect(args) as client:
        job = client.set_priority(args.job_id, args.priority)
    if output.as_json:
        output.document(to_document(job))
    else:
        output.line(f"Job {job.job_id} has priority {job.priority} and position {job.queue_position}.")
    return ExitCode.OK
