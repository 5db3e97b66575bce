"""The job itself: one immutable record, replaced as its life goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.results import JobError, JobResult, Progress, TaskResult
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobKind, JobSpec
from lmms_eval_grpc.jobs.state import JobState, check_transition


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work. Times are seconds since the epoch."""

    job_id: str
    spec: JobSpec
    state: JobState
    create_time: float
    order: int
    """Submission order: strictly increasing over the life of a store."""
    request_id: str = ""
    request_digest: str = ""
    """Digest of the submitted payload, to tell a repeated request from a conflicting one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    """Name of the principal that submitted it. Empty: not recorded."""
    trace_parent: str = ""
    """The span that submitted it, as W3C's ``traceparent``. Empty: it belongs to no trace."""
    priority: int = 0
    attempt: int = 0
    sequence: int = 0
    start_time: float | None = None
    end_time: float | None = None
    devices: tuple[str, ...] = ()
    progress: Progress | None = None
    task_results: tuple[TaskResult, ...] = ()
    result: JobResult | None = None
    error: JobError | None = None
    cancel_reason: str = ""
    failures: int = 0
    """Attempts that failed and were followed by another. Those that ended with their server are not counted."""
    behind: int = 0
    """Order of the newest job when a failed attempt put this one back: it waits behind all that were there. 0: none
    did."""

    @property
    def kind(self) -> JobKind:
        """What the job does."""
        return JobKind.EVALUATION if isinstance(self.spec, EvaluationSpec) else JobKind.MERGE

    def was_made_by(self, owner: str, request_digest: str) -> bool:
        """Whether this request, by this principal, is the one that made the job. A job whose owner was not recorded is
        anybody's."""
        return self.request_digest == request_digest and self.owner in ("", owner)

    @property
    def slots_needed(self) -> int:
        """Devices that the job takes."""
        return self.spec.num_gpus if isinstance(self.spec, EvaluationSpec) else 1

    @property
    def queue_key(self) -> tuple[int, int, int]:
        """Sorts queued jobs: the next one to run first. No two jobs share one."""
        if self.failures:
            return (-self.priority, self.behind, self.order)
        return (-self.priority, self.order, 0)

    def after(self, event: JobEvent) -> Job:
        """The job as it is once ``event`` has happened.

        Raises:
            IllegalTransition: the event's state cannot follow the job's.
            ValueError: the event is not the next of the job's log.
        """
        if event.sequence != self.sequence + 1:
            raise ValueError(f"event {event.sequence} cannot follow event {self.sequence} of job {self.job_id}")
        body = event.body
        if isinstance(body, Progress):
            return dataclasses.replace(self, sequence=event.sequence, progress=body)
        if isinstance(body, TaskResult):
            kept = tuple(result for result in self.task_results if result.task != body.task)
            return dataclasses.replace(self, sequence=event.sequence, task_results=(*kept, body))
        return self._entered(body, event)

    def _entered(self, change: StateChange, event: JobEvent) -> Job:
        if change.previous is not None:
            check_transition(self.state, change.state)
        # The error of an attempt that is followed by another is in the log; the job has none yet.
        error = change.error if change.state.ended else None
        more: dict[str, Any]
        match change.state:
            case JobState.RUNNING:
                more = {"start_time": event.time}
            case JobState.QUEUED:
                failures = self.failures + (change.error is not None)
                more = {"start_time": None, "devices": (), "failures": failures}
            case JobState.CANCELLING:
                more = {"cancel_reason": change.reason}
            case JobState.CANCELLED:
                more = {"end_time": event.time, "cancel_reason": self.cancel_reason or change.reason}
            case _:
                more = {"end_time": event.time}
        return dataclasses.replace(
            self, sequence=event.sequence, state=change.state, attempt=change.attempt, error=error, **more
        )
