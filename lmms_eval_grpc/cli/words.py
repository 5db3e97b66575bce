"""From the service's messages to the words and numbers that people read, and to the JSON that programs read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from lmms_eval_grpc.cli.output import Table
from lmms_eval_grpc.v1 import catalog_pb2, job_pb2

ENDED = frozenset({job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED})


def to_document(message: Message) -> dict[str, Any]:
    """The message as JSON with the names of the .proto files; fields with their default value are there too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def name_state(state: int) -> str:
    """``running`` for JOB_STATE_RUNNING; a state that this version does not know keeps its number."""
    return _name(job_pb2.JobState, state, "JOB_STATE_")


def name_role(role: int) -> str:
    """``submit`` for ROLE_SUBMIT."""
    return _name(catalog_pb2.Role, role, "ROLE_")


def name_stage(stage: int) -> str:
    """``loading model`` for JOB_STAGE_LOADING_MODEL."""
    return _name(job_pb2.JobStage, stage, "JOB_STAGE_").replace("_", " ")


def name_error_code(code: int) -> str:
    """``worker died`` for JOB_ERROR_CODE_WORKER_DIED."""
    return _name(job_pb2.JobErrorCode, code, "JOB_ERROR_CODE_").replace("_", " ")


def _name(enum: Any, value: int, prefix: str) -> str:
    name = enum.Name(value) if value in enum.values() else f"{prefix}{value}"
    return str(name).removeprefix(prefix).lower()


def format_time(time: Timestamp) -> str:
    """Local date and time, to the second."""
    return datetime.fromtimestamp(time.seconds).strftime("%Y-%m-%d %H:%M:%S")


def format_short_time(time: Timestamp) -> str:
    """Local date and time, to the minute and without the year, for columns."""
    return format_time(time)[5:16]


def format_seconds(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 04 h``."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def format_bytes(count: int) -> str:
    """``16.0 GiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def format_number(value: float) -> str:
    """Four significant digits and no fewer than the integer part has; ``undefined`` for NaN."""
    if math.isnan(value):
        return "undefined"
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6) and not math.isinf(value):
        return f"{value:.3e}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:.1f}"


def format_metric(metric: job_pb2.Metric) -> str:
    """``exact_match 0.912 ± 0.013``, with the filter where it is not the default."""
    name = metric.name if metric.filter in ("", "none") else f"{metric.name} ({metric.filter})"
    against = _against_baseline(metric)
    return f"{name} {_with_error(metric)}" + (f", {against} against the baseline" if against else "")


def _against_baseline(metric: job_pb2.Metric) -> str:
    """``+0.05 (better, p 0.012)``, in the unit of the samples' scores; empty without a baseline."""
    if not metric.HasField("baseline"):
        return ""
    found = metric.baseline
    sign = "+" if found.difference > 0 else ""
    verdict = job_pb2.BaselineComparison.Verdict.Name(found.verdict).removeprefix("VERDICT_").lower().replace("_", " ")
    chance = f", p {format_number(found.adjusted_p_value)}" if found.HasField("adjusted_p_value") else ""
    return f"{sign}{format_number(found.difference)} ({verdict}{chance})"


def _with_error(metric: job_pb2.Metric) -> str:
    error = f" ± {format_number(metric.standard_error)}" if metric.HasField("standard_error") else ""
    return f"{format_number(metric.value)}{error}"


def format_labels(labels: Iterable[tuple[str, str]]) -> str:
    """``run=sft-7 step=1200``, sorted."""
    return " ".join(f"{key}={value}" for key, value in sorted(labels))


def measure_duration(job: job_pb2.Job, now: float) -> float | None:
    """Seconds that the job has run, or ran; None when it never started."""
    if not job.HasField("start_time"):
        return None
    end = _seconds(job.end_time) if job.HasField("end_time") else now
    return max(0.0, end - _seconds(job.start_time))


def _seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9


def pick_headline(job: job_pb2.Job) -> str:
    """The one score to show in a list: the first group's or task's first metric that has a value."""
    groups = [(group.group, group.metrics) for group in job.evaluation_result.group_results]
    tasks = [(task.task, task.metrics) for task in list_task_results(job)]
    outcomes = groups + tasks
    for name, metrics in outcomes:
        for metric in metrics:
            if not math.isnan(metric.value):
                # The number first: it must survive where the column is cut.
                where = f" of {name} (+{len(outcomes) - 1} more)" if len(outcomes) > 1 else ""
                return f"{_with_error(metric)} {metric.name}{where}"
    return ""


def list_task_results(job: job_pb2.Job) -> list[job_pb2.TaskResult]:
    """Those of the final result, or else those that are there so far."""
    return list(job.evaluation_result.task_results or job.task_results)


def tabulate_results(job: job_pb2.Job) -> Table | None:
    """One row per metric of each task and group; None when there is no result yet.

    The difference to the baseline is a column where there is any.
    """
    rows = [
        _make_row(task.task, metric, _count_samples(task.samples))
        for task in list_task_results(job)
        for metric in task.metrics or [job_pb2.Metric(name="(no metric)", value=math.nan)]
    ]
    rows += [
        _make_row(f"group {group.group}", metric, str(metric.sample_count))
        for group in job.evaluation_result.group_results
        for metric in group.metrics
    ]
    if not rows:
        return None
    headings: tuple[str, ...] = (
        "task",
        "metric",
        "filter",
        "value ± stderr",
        "interval",
        "samples",
        "against baseline",
    )
    if not any(row[-1] for row in rows):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    return Table(headings, rows, right_aligned=frozenset(headings[3:]), foldable=frozenset({"task", "metric"}))


def _count_samples(counts: job_pb2.SampleCounts) -> str:
    """``118, 2 errored, 5 skipped``."""
    left_out = ((counts.errored, "errored"), (counts.skipped, "skipped"))
    return ", ".join([str(counts.scored), *(f"{count} {word}" for count, word in left_out if count)])


def _make_row(name: str, metric: job_pb2.Metric, samples: str) -> tuple[str, ...]:
    better = {True: " ↑", False: " ↓"}[metric.higher_is_better] if metric.HasField("higher_is_better") else ""
    interval = ""
    if metric.HasField("confidence_interval"):
        bounds = metric.confidence_interval
        interval = f"{bounds.level:.0%} {format_number(bounds.lower)} … {format_number(bounds.upper)}"
    value, against = _with_error(metric), _against_baseline(metric)
    return (name, f"{metric.name}{better}", metric.filter, value, interval, samples, against)


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
