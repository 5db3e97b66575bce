"""The entries of a job's append-only log, and what a worker can tell about its job.

A job's log has one writer and sequences 1, 2, 3…. State changes and task results stay for ever; a progress may be
dropped once a newer one exists, so a gap in the sequence only ever means superseded progress.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmms_eval_grpc.jobs.results import EvaluationResult, JobError, MergeResult, Progress, TaskResult
from lmms_eval_grpc.jobs.state import JobState


@dataclass(frozen=True, slots=True)
class StateChange:
    """The job entered a state."""

    previous: JobState | None
    """None for the first event."""
    state: JobState
    attempt: int
    reason: str = ""
    error: JobError | None = None


EventBody = StateChange | TaskResult | Progress


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One entry of a job's log."""

    sequence: int
    time: float
    """Seconds since the epoch."""
    body: EventBody

    @property
    def supersedable(self) -> bool:
        """Whether a newer event of the same kind makes this one worthless."""
        return isinstance(self.body, Progress)

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return isinstance(self.body, StateChange) and self.body.state.ended


@dataclass(frozen=True, slots=True)
class Completed:
    """A worker's last word: the job is done."""

    result: EvaluationResult | MergeResult


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker's last word, or what its executor says in its place: the job failed."""

    error: JobError


@dataclass(frozen=True, slots=True)
class Stopped:
    """A worker's last word after a cancellation: it stopped; what it had finished is kept."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """What an executor says in the place of a last word: there was no worker, for a reason that is not the job's. It is
    for the machine to recover and for the job to wait."""

    reason: str
    """In words, for the job's log."""


@dataclass(frozen=True, slots=True)
class HostLost:
    """What an executor says in the place of a last word: the machine that the worker ran on is gone, and the worker
    with it. The job goes on elsewhere, from what it had recorded."""

    reason: str
    """In words, for the job's log."""


WorkerReport = Progress | TaskResult | Completed | Failed | Stopped | NotStarted | HostLost
"""What an execution yields: any number of Progress and TaskResult, then exactly one of the other five."""
