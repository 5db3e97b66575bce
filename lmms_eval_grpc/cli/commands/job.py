"""``job``: everything about one job."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from google.protobuf.json_format import MessageToDict

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.following import JobView, describe_progress
from lmms_eval_grpc.cli.outcome import describe_stages, show_outcome
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import ENDED, format_labels, format_seconds, format_time, measure_duration, to_document
from lmms_eval_grpc.client.arguments import from_json_value
from lmms_eval_grpc.v1 import job_pb2


def run(args: argparse.Namespace, output: Output) -> int:
    """A job that has failed is no failure of this command."""
    with connect(args) as client:
        job = client.get(args.job_id)
    if output.as_json:
        output.document(to_document(job))
        return ExitCode.OK
    facts = [*_describe_job(job), *_describe_spec(job)]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        output.line(f"{name.ljust(width)}  {value}")
    show_outcome(job, output)
    return ExitCode.OK


def _describe_job(job: job_pb2.Job) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "state", JobView(job.job_id).with_job(job).describe_state()
    if job.state not in ENDED and job.HasField("progress"):
        yield "progress", describe_progress(job.progress)
    yield "submitted", format_time(job.create_time)
    if job.owner:
        yield "owner", job.owner
    if job.HasField("start_time"):
        yield "started", format_time(job.start_time)
    if job.HasField("end_time"):
        yield "ended", format_time(job.end_time)
    duration = measure_duration(job, time.time())
    if duration is not None:
        yield "duration", format_seconds(duration)
    if job.evaluation_result.throughput.stage_elapsed:
        yield "stages", describe_stages(job.evaluation_result)
    if job.attempt:
        yield "attempt", str(job.attempt)
    if job.devices:
        yield "devices", ", ".join(job.devices)
    if job.labels:
        yield "labels", format_labels(job.labels.items())
    if job.priority:
        yield "priority", str(job.priority)


def _describe_spec(job: job_pb2.Job) -> Iterator[tuple[str, str]]:
    """What was asked for: each field that was set, under its name."""
    spec = job.merge if job.HasField("merge") else job.evaluation
    for name, value in MessageToDict(spec, preserving_proto_field_name=True).items():
        yield name, value if isinstance(value, str) else json.dumps(from_json_value(value), ensure_ascii=False)
