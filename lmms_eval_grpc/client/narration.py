"""What `wait_for_job` shows while it waits: lines, or in a notebook one display that is updated in place."""

from __future__ import annotations

import importlib
import math
import sys
import time
from typing import Any

from lmms_eval_grpc.client.dictionaries import state_name
from lmms_eval_grpc.client.rendering import render_wait
from lmms_eval_grpc.v1 import job_pb2 as messages

_PROGRESS_EVERY = 5.0
"""Seconds between lines about progress in one stage. All else is always told."""


def make_narrator(job_id: str, verbose: bool) -> Narrator:
    """One for where this runs."""
    return NotebookNarrator(job_id) if verbose and in_notebook() else Narrator(job_id, verbose)


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel, whose front end shows HTML. Imports nothing."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Narrator:
    """Prints a job's life, one line per event, or nothing when not `verbose`."""

    def __init__(self, job_id: str, verbose: bool) -> None:
        self._job_id = job_id
        self._verbose = verbose
        self._state = -1
        self._stage = -1
        self._next_progress = -math.inf

    def tell_job(self, job: messages.Job) -> None:
        """Tells the state that the job was found in, unless it was told before."""
        place = f" (position: {job.queue_position})" if job.HasField("queue_position") else ""
        self._tell_state(job.state, place)

    def tell_event(self, event: messages.JobEvent) -> None:
        """Tells one event."""
        match event.WhichOneof("event"):
            case "state_change":
                reason = event.state_change.reason
                self._tell_state(event.state_change.state, f" ({reason})" if reason else "")
            case "task_result":
                self._print(_describe_result(event.task_result))
            case "progress":
                self._tell_progress(event.progress)

    def _tell_state(self, state: int, more: str) -> None:
        if state != self._state:
            self._state = state
            self._print(state_name(state) + more)

    def _tell_progress(self, progress: messages.Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage or now >= self._next_progress:
            self._stage = progress.stage
            self._next_progress = now + _PROGRESS_EVERY
            self._print(_describe_progress(progress))

    def _print(self, line: str) -> None:
        if self._verbose:
            print(f"Job {self._job_id[:8]}: {line}", flush=True)  # noqa: T201


class NotebookNarrator(Narrator):
    """The same lines in one output of the cell, with a bar for the progress, updated in place."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, verbose=True)
        self._lines: list[str] = []
        self._handle: Any = None

    def _tell_progress(self, progress: messages.Progress) -> None:
        done, total = progress.samples_done, progress.samples_total
        if progress.bytes_total:
            done, total = progress.bytes_done, progress.bytes_total
        self._show(_describe_progress(progress), done, total)

    def _print(self, line: str) -> None:
        self._lines.append(line)
        self._show()

    def _show(self, now: str = "", done: int = 0, total: int = 0) -> None:
        title = f"Job {self._job_id[:8]}"
        text = "\n".join(f"{title}: {line}" for line in [*self._lines, *filter(None, [now])])
        bundle = {"text/plain": text, "text/html": render_wait(title, self._lines, now, done, total)}
        if self._handle is None:
            display: Any = importlib.import_module("IPython.display").display
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _describe_result(result: messages.TaskResult) -> str:
    metrics = ", ".join(
        f"{metric.name} {metric.value:.4g}" + (f" ± {metric.standard_error:.2g}" if metric.standard_error else "")
        for metric in result.metrics
    )
    return (
        f"{result.task}: {metrics or 'no metrics'} ({result.samples.scored} of {result.samples.asked} samples scored)"
    )


def _describe_progress(progress: messages.Progress) -> str:
    stage = messages.JobStage.Name(progress.stage) if progress.stage in messages.JobStage.values() else ""
    words = stage.removeprefix("JOB_STAGE_").lower().replace("_", " ") or "working"
    where = f" {progress.task}" if progress.task else ""
    count = f", {progress.samples_done} of {progress.samples_total} samples" if progress.samples_total else ""
    if progress.bytes_total:
        count = f", {progress.bytes_done / progress.bytes_total:.0%} of {progress.bytes_total / 1e9:.3g} GB"
    speed = f", {progress.samples_per_second:.3g} per second" if progress.samples_per_second else ""
    return f"{words}{where}{count}{speed}"
