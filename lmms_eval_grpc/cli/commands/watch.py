"""``watch``: follows a job to its end."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.outcome import show_outcome
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.watchers import make_watcher
from lmms_eval_grpc.cli.words import ENDED, to_document
from lmms_eval_grpc.client import EvalClient
from lmms_eval_grpc.v1 import job_pb2

_EXIT_CODES: dict[int, ExitCode] = {
    job_pb2.JOB_STATE_COMPLETED: ExitCode.OK,
    job_pb2.JOB_STATE_FAILED: ExitCode.JOB_FAILED,
    job_pb2.JOB_STATE_CANCELLED: ExitCode.CANCELLED,
}


def run(args: argparse.Namespace, output: Output) -> int:
    """Returns the exit code of the job's outcome."""
    with connect(args) as client:
        return follow_job(client, args.job_id, output)


def follow_job(client: EvalClient, job_id: str, output: Output) -> ExitCode:
    """Shows the job until its end, then its results.

    As JSON: a line ``{"snapshot": job}``, lines ``{"event": …}``, and ``{"snapshot": job}`` again once it has ended.
    """
    try:
        job = _follow_as_json(client, job_id, output) if output.as_json else _follow(client, job_id, output)
    except KeyboardInterrupt:
        output.remark(f"\nstopped watching; job {job_id} goes on. Watch it again: lmms-eval-grpc watch {job_id}")
        output.remark(f"Cancel it: lmms-eval-grpc cancel {job_id}")
        return ExitCode.INTERRUPTED
    return _EXIT_CODES.get(job.state, ExitCode.SERVER_ERROR)


def _follow(client: EvalClient, job_id: str, output: Output) -> job_pb2.Job:
    job = client.get(job_id)
    with make_watcher(output, f"job {job_id}") as watcher:
        watcher.show_job(job)
        if job.state not in ENDED:
            for event in client.watch_job(job_id, job.sequence):
                watcher.show_event(event)
            job = client.get(job_id)
    show_outcome(job, output)
    return job


def _follow_as_json(client: EvalClient, job_id: str, output: Output) -> job_pb2.Job:
    job = client.get(job_id)
    output.record({"snapshot": to_document(job)})
    if job.state not in ENDED:
        for event in client.watch_job(job_id, job.sequence):
            output.record({"event": to_document(event)})
        job = client.get(job_id)
        output.record({"snapshot": to_document(job)})
    return job
