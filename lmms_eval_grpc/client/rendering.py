"""How notebooks show jobs and results. Every text is escaped: names and errors come from files and models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


class JobDocument(dict[str, Any]):
    """A job as `get_job` returns it: a dictionary that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return render_job(self)


class ResultDocument(dict[str, Any]):
    """A job's results document: a dictionary that a notebook shows as a table of the metrics."""

    def _repr_html_(self) -> str:
        return render_result(self)


def render_job(job: Mapping[str, Any]) -> str:
    """A job with what it evaluates, how far it is, its metrics, and its error with the end of the log."""
    request = job["request"]
    what = [("model", request.get("model")), ("tasks", ", ".join(request.get("tasks", ())))]
    if job["kind"] == "merge":
        what = [("checkpoint", request["checkpoint_path"]), ("merged to", (job["result"] or {}).get("merged_path"))]
    position = job["position_in_queue"]
    rows = [
        *what,
        ("owner", job["owner"]),
        ("position", None if position is None else str(position)),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(job["labels"].items()))),
        *((name, job[f"{name}_at"]) for name in ("created", "started", "completed")),
        ("cancelled because", job["cancel_reason"]),
    ]
    table = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows if value)
    parts = [f"<b>Job {escape(job['job_id'])}: {escape(job['status'])}</b><table>{table}</table>"]
    if job["status"] == "running" and job["progress"]:
        progress = job["progress"]
        parts.append(_bar(progress["stage"].replace("_", " "), progress["samples_done"], progress["samples_total"]))
    if job["kind"] == "evaluation":
        parts.append(render_result(job["result"]) if job["result"] else _metrics(job["task_results"]))
    if job["error"]:
        parts.append(f"<pre>{escape(job['error'])}</pre>")
    return f"<div>{''.join(parts)}</div>"


def render_result(result: Mapping[str, Any]) -> str:
    """The metrics of each task and group, with standard errors and intervals."""
    service = result["service"]
    return _metrics([*service["task_results"], *service["group_results"]])


def render_wait(title: str, lines: Iterable[str], now: str, done: int, total: int) -> str:
    """What happened so far, line by line, then what happens now."""
    told = "".join(f"<div>{escape(title)}: {escape(line)}</div>" for line in lines)
    return f"<div>{told}{_bar(now, done, total) if now else ''}</div>"


def _bar(words: str, done: int, total: int) -> str:
    bar = f'<progress max="{total:d}" value="{done:d}"></progress> ' if total else ""
    return f"<div>{bar}{escape(words)}</div>"


def _metrics(results: Sequence[Mapping[str, Any]]) -> str:
    heads = ("task", "metric", "filter", "value", "± standard error", "interval", "samples")
    rows = [
        (
            result["task"] if "task" in result else f"group {result['group']}",
            metric["name"],
            metric["filter"],
            _number(metric["value"]),
            _number(metric["standard_error"]),
            _interval(metric["confidence_interval"]),
            str(metric["sample_count"]),
        )
        for result in results
        for metric in result["metrics"]
    ]
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _interval(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    return f"{interval['level']:.0%} {_number(interval['lower'])} … {_number(interval['upper'])}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "undefined" if math.isnan(value) else f"{value:.4g}"
