"""Jobs, results and events to test with."""

from __future__ import annotations

import dataclasses
from typing import Any

from lmms_eval_grpc.jobs.events import EventBody, JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import (
    EvaluationResult,
    GroupResult,
    JobStage,
    Metric,
    Progress,
    TaskResult,
)
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import JobState


def spec(**changes: Any) -> EvaluationSpec:
    """A small evaluation."""
    return dataclasses.replace(
        EvaluationSpec(model="idefics3", tasks=("digits",), model_args={"pretrained": "checkpoint-100"}), **changes
    )


def submitted(order: int, **changes: Any) -> Job:
    """A job as it is handed to a journal: queued, without events."""
    values: dict[str, Any] = {"spec": spec(), "state": JobState.QUEUED, "create_time": 1000.0 + order, "order": order}
    return Job(**{"job_id": f"job-{order}", **values, **changes})


def queued(order: int, **changes: Any) -> tuple[Job, JobEvent]:
    """A new job and the first event of its log, as a store takes them."""
    job = submitted(order, **changes)
    event = JobEvent(1, job.create_time, StateChange(None, JobState.QUEUED, 0))
    return job.after(event), event


def then(job: Job, body: EventBody | JobState, *, time: float | None = None, **changes: Any) -> tuple[Job, JobEvent]:
    """The job after one more event, and the event. A state stands for the change into it."""
    if isinstance(body, JobState):
        attempt = job.attempt + 1 if body is JobState.RUNNING else job.attempt
        body = StateChange(job.state, body, attempt)
    event = JobEvent(job.sequence + 1, job.create_time + job.sequence if time is None else time, body)
    return dataclasses.replace(job.after(event), **changes), event


def progress(done: int, total: int = 100, **changes: Any) -> Progress:
    """So many samples answered."""
    return dataclasses.replace(
        Progress(JobStage.GENERATING, task="digits", samples_done=done, samples_total=total), **changes
    )


def task_result(task: str = "digits", value: float = 0.5) -> TaskResult:
    """A task's outcome with one metric."""
    return TaskResult(task, "1", (Metric("exact_match", "none", value, sample_count=100),), 100, 100, 0, 2.5)


def result(*tasks: str) -> EvaluationResult:
    """An evaluation's outcome."""
    return EvaluationResult(
        task_results=tuple(task_result(task) for task in tasks or ("digits",)),
        group_results=(GroupResult("all", "1", (Metric("exact_match", "none", 0.5),), ("digits",)),),
        results_json='{"results": {}}',
        stage_seconds={"generate": 1.5},
        input_tokens=7,
    )
