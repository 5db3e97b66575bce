"""``jobs``: the newest jobs."""

from __future__ import annotations

import argparse
import itertools
import time

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.words import (
    format_labels,
    format_seconds,
    format_short_time,
    measure_duration,
    name_state,
    pick_headline,
    shorten,
    to_document,
)
from lmms_eval_grpc.v1 import job_pb2

HEADINGS = ("job", "state", "model", "tasks", "labels", "submitted", "duration", "score")
NUMBERS = frozenset({"duration"})
CUTTABLE = frozenset({"model", "tasks", "labels", "score"})
PAGE_SIZE = 50


def run(args: argparse.Namespace, output: Output) -> int:
    """One row per job, newest first."""
    # Scores are results: a table needs them, a document has them on request.
    full = args.full or not output.as_json
    with connect(args) as client:
        found = client.list_jobs(
            args.state,
            dict(args.label),
            owner=client.whoami().name if args.mine else args.owner,
            page_size=min(args.limit_count, PAGE_SIZE),
            full=full,
        )
        jobs = list(itertools.islice(found, args.limit_count))
    if output.as_json:
        output.document({"jobs": [to_document(job) for job in jobs]})
    elif jobs:
        now = time.time()
        rows = [_make_row(job, now) for job in jobs]
        headings: tuple[str, ...] = HEADINGS
        # Where nobody is asked who they are, all owners are the same.
        if any(job.owner not in ("", "anonymous") for job in jobs):
            headings = (*HEADINGS, "owner")
            rows = [(*row, shorten(job.owner, 40)) for row, job in zip(rows, jobs, strict=True)]
        output.table(Table(headings, rows, right_aligned=NUMBERS, cuttable=CUTTABLE))
    else:
        output.remark("no jobs")
    return ExitCode.OK


def _make_row(job: job_pb2.Job, now: float) -> tuple[str, ...]:
    duration = measure_duration(job, now)
    merge = job.HasField("merge")
    return (
        job.job_id,
        name_state(job.state),
        "(merge)" if merge else job.evaluation.model,
        shorten(job.merge.checkpoint_path if merge else ",".join(job.evaluation.tasks), 40),
        shorten(format_labels(job.labels.items()), 40),
        format_short_time(job.create_time),
        "" if duration is None else format_seconds(duration),
        job.error.reason if job.HasField("error") else pick_headline(job),
    )
