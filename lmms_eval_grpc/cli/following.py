"""What someone who watches a job knows of it so far: one immutable picture, replaced with every message."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from lmms_eval_grpc.cli.words import ENDED, format_bytes, format_seconds, list_task_results, name_stage, name_state
from lmms_eval_grpc.v1 import job_pb2


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task of the job."""

    done: int = 0
    total: int = 0
    result: job_pb2.TaskResult | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """The whole job."""

    title: str
    """What people call it, such as ``job 3f2a``."""
    state: int = job_pb2.JOB_STATE_UNSPECIFIED
    attempt: int = 0
    queue_position: int | None = None
    progress: job_pb2.Progress | None = None
    tasks: Mapping[str, TaskView] = field(default_factory=dict)
    """In the order in which the job came to them."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def with_job(self, job: job_pb2.Job) -> JobView:
        """After a snapshot, which replaces everything that was known."""
        view = JobView(
            self.title,
            job.state,
            job.attempt,
            job.queue_position if job.HasField("queue_position") else None,
        )
        if job.HasField("progress"):
            view = view._with_progress(job.progress)
        for result in list_task_results(job):
            view = view._with_result(result)
        return view

    def with_event(self, event: job_pb2.JobEvent) -> JobView:
        """After an event."""
        match event.WhichOneof("event"):
            case "state_change":
                change = event.state_change
                view = dataclasses.replace(self, state=change.state, attempt=change.attempt, queue_position=None)
                # A new attempt counts anew; the finished tasks' results stay until they come again.
                return view if change.state != job_pb2.JOB_STATE_QUEUED else dataclasses.replace(view, progress=None)
            case "task_result":
                return self._with_result(event.task_result)
            case "progress":
                return self._with_progress(event.progress)
        return self

    def _with_progress(self, progress: job_pb2.Progress) -> JobView:
        tasks = dict(self.tasks)
        if progress.task:
            known = tasks.get(progress.task, TaskView())
            tasks[progress.task] = dataclasses.replace(
                known, done=progress.task_samples_done, total=progress.task_samples_total or known.total
            )
        return dataclasses.replace(self, progress=progress, tasks=tasks)

    def _with_result(self, result: job_pb2.TaskResult) -> JobView:
        asked = result.samples.asked
        return dataclasses.replace(self, tasks={**self.tasks, result.task: TaskView(asked, asked, result)})

    def describe_state(self) -> str:
        """``running, attempt 2: generating``."""
        words = name_state(self.state)
        if self.queue_position is not None:
            words += f", {self.queue_position} before it" if self.queue_position else ", next in the queue"
        if self.attempt > 1:
            words += f", attempt {self.attempt}"
        if self.progress is not None and self.progress.stage and not self.ended:
            words += f": {name_stage(self.progress.stage)}{describe_bytes(self.progress)}"
        return words


def describe_progress(progress: job_pb2.Progress) -> str:
    """``generating digits 45/120 (38 %), 8.2 samples/s, 9.1 s left``."""
    words = name_stage(progress.stage)
    if progress.task:
        words += f" {progress.task}"
    done, total = progress.task_samples_done, progress.task_samples_total
    if not total:
        done, total = progress.samples_done, progress.samples_total
    if total:
        words += f" {done}/{total} ({done / total:.0%})"
    words += describe_bytes(progress)
    return ", ".join([words, *describe_pace(progress)])


def describe_bytes(progress: job_pb2.Progress) -> str:
    """`` 1.2 GiB of 4.8 GiB (25 %)``, of a merge; empty of all else."""
    done, total = progress.bytes_done, progress.bytes_total
    return f" {format_bytes(done)} of {format_bytes(total)} ({done / total:.0%})" if total else ""


def describe_pace(progress: job_pb2.Progress) -> list[str]:
    """Rate, remaining time and errors, as far as they are known."""
    parts = []
    if progress.samples_per_second:
        parts.append(f"{progress.samples_per_second:.3g} samples/s")
    if progress.HasField("remaining"):
        parts.append(f"{format_seconds(progress.remaining.seconds + progress.remaining.nanos / 1e9)} left")
    if progress.samples_resumed:
        parts.append(f"{progress.samples_resumed} from an earlier attempt")
    if progress.samples_cached:
        parts.append(f"{progress.samples_cached} from the cache")
    if progress.samples_errored:
        parts.append(f"{progress.samples_errored} errored")
    return parts
