"""The job's state machine, as a table of allowed transitions."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the state is terminal."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    # Back to QUEUED: the server was restarted while the job ran, there was no worker to be had, or the attempt failed
    # and the job's retry policy asks for another.
    JobState.RUNNING: frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLING, JobState.QUEUED}),
    # A job that finished before its worker heard of the cancellation is complete: its results are real.
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class IllegalTransition(Exception):
    """A bug: code tried to move a job along an edge that the table does not have."""


def check_transition(previous: JobState, following: JobState) -> None:
    """Raises :class:`IllegalTransition` unless ``following`` may come right after ``previous``."""
    if following not in TRANSITIONS[previous]:
        raise IllegalTransition(f"a job cannot go from {previous} to {following}")
