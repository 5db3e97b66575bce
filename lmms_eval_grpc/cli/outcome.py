"""What came out of a job, for people: its results, or why there are none."""

from __future__ import annotations

from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import (
    format_bytes,
    format_labels,
    format_seconds,
    name_error_code,
    tabulate_results,
)
from lmms_eval_grpc.v1 import job_pb2


def show_outcome(job: job_pb2.Job, output: Output) -> None:
    """Prints results, files, and the error with the end of the log."""
    table = tabulate_results(job)
    if table is not None:
        output.table(table)
    result = job.evaluation_result
    if result.throughput.samples_per_second:
        tokens = result.throughput.output_tokens_per_second
        more = f", {tokens:.4g} tokens/s" if tokens else ""
        output.line(f"throughput: {result.throughput.samples_per_second:.3g} samples/s{more}")
    if result.results_path:
        output.line(f"results on the server: {result.results_path}")
    if job.HasField("merge_result"):
        output.line(f"merged checkpoint: {job.merge_result.output_path} ({format_bytes(job.merge_result.size_bytes)})")
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        output.line(f"cancelled: {job.cancel_reason or 'no reason given'}")
    if job.HasField("error"):
        _show_error(job, output)


def _show_error(job: job_pb2.Job, output: Output) -> None:
    error = job.error
    output.line(f"failed ({name_error_code(error.code)}, {error.reason}): {error.message}")
    if error.details:
        output.line(f"details: {format_labels(error.details.items())}")
    if error.log_tail.strip():
        output.line("end of the worker's log:")
        for line in error.log_tail.rstrip().splitlines():
            output.line(f"  {line}")
        output.line(f"the whole log: lmms-eval-grpc logs {job.job_id}")


def describe_stages(result: job_pb2.EvaluationResult) -> str:
    """``generating 12 s, scoring 0.1 s``, the longest first."""
    stages = {
        name.replace("_", " "): elapsed.seconds + elapsed.nanos / 1e9
        for name, elapsed in result.throughput.stage_elapsed.items()
    }
    ordered = sorted(stages.items(), key=lambda stage: -stage[1])
    return ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in ordered)
