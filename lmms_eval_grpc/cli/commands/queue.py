"""``queue``: what runs, what waits, and on which devices."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.devices import tabulate_slots
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import format_time, name_state, to_document
from lmms_eval_grpc.v1.evaluation_service_pb2 import QueueChange, QueueSnapshot


def run(args: argparse.Namespace, output: Output) -> int:
    """The queue now; following, also every change, without end."""
    with connect(args) as client:
        # A stream goes on trying while a server is away; a call that fails tells at once that there is none.
        client.server_info()
        for message in client.watch_queue():
            if not args.follow:
                if isinstance(message, QueueChange):
                    continue
                show_now(message, output)
                break
            if output.as_json:
                kind = "snapshot" if isinstance(message, QueueSnapshot) else "change"
                output.record({kind: to_document(message)})
            elif isinstance(message, QueueSnapshot):
                _show_snapshot(message, output)
            else:
                _show_change(message, output)
    return ExitCode.OK


def show_now(queue: QueueSnapshot, output: Output) -> None:
    """The whole queue at one moment."""
    if output.as_json:
        output.document(to_document(queue))
    else:
        _show_snapshot(queue, output)


def _show_snapshot(queue: QueueSnapshot, output: Output) -> None:
    if queue.paused:
        output.line(f"paused{': ' if queue.pause_reason else ''}{queue.pause_reason}")
    if queue.trouble:
        output.line(f"in trouble: {queue.trouble}")
    accepting = "accepting jobs" if queue.accepting else "not accepting jobs"
    if queue.draining:
        accepting = "draining, so not accepting jobs"
    output.line(
        f"{accepting}; {len(queue.running_job_ids)} running, {len(queue.queued_job_ids)} of {queue.capacity} waiting"
    )
    output.line(
        f"ended: {queue.completed_count} completed, {queue.failed_count} failed, {queue.cancelled_count} cancelled"
    )
    output.table(tabulate_slots(queue.slots))
    for position, job_id in enumerate(queue.queued_job_ids):
        output.line(f"waiting {position}: {job_id}")


def _show_change(change: QueueChange, output: Output) -> None:
    previous = f"{name_state(change.previous_state)} → " if change.previous_state else ""
    output.line(f"{format_time(change.change_time)}  {change.job_id}  {previous}{name_state(change.state)}")
