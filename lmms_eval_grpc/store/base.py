"""What any store of jobs promises. ``tests/store/`` holds one conformance suite for every implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lmms_eval_grpc.jobs.events import JobEvent
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.state import JobState


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a listing shows."""

    states: frozenset[JobState] = frozenset()
    """Empty: any."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """All of these must match."""
    owner: str = ""
    """Who submitted them. Empty: anybody."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The jobs that have not ended."""

    jobs: list[Job]
    """In submission order."""
    unreadable: list[str]
    """Ids of those whose records cannot be read."""


class JobStore(Protocol):
    """Durable home of jobs and their events.

    Every coroutine that writes returns only when the write is durable, and writes take effect in the order in which
    they were called, also when they are not awaited one by one. Storage failures raise
    :class:`~lmms_eval_grpc.jobs.errors.StoreUnavailable` and leave what was there untouched; what is too large for any
    store of the kind raises ValueError.

    A job whose record cannot be read (a later release wrote it, or it is damaged) stays as it is and is in nobody's
    way: who asks for it gets :class:`~lmms_eval_grpc.jobs.errors.JobUnreadable`, who asks for many gets the others.
    """

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written, and what to do about it: since a write failed, until one succeeds that the
        store tries itself every few seconds. None: it can, for all that is known. That another process was at the file
        for too long once is no trouble."""

    def when_trouble_changes(self, listener: Callable[[], None]) -> None:
        """Calls ``listener``, in the event loop, whenever :attr:`trouble` has changed."""

    async def open(self) -> None:
        """Opens or creates the store and brings its schema up to date."""

    async def close(self) -> None:
        """Finishes pending writes and lets go."""

    async def insert(self, job: Job, event: JobEvent) -> None:
        """Adds a new job with the first event of its log. Raises RequestIdConflict if ``request_id`` is taken."""

    async def append(self, job: Job, event: JobEvent) -> None:
        """Adds ``event`` to the log of the job and replaces the job's record by ``job`` (the job after the event), in
        one transaction. Older progress of the job is dropped when ``event`` is progress."""

    async def amend(self, job: Job) -> None:
        """Replaces the job's record by ``job`` without an event. Raises JobNotFound when there is no such job, or it
        has had another event since."""

    async def get(self, job_id: str) -> Job | None:
        """The job as it was last written. Raises JobUnreadable."""

    async def find_request(self, request_id: str) -> Job | None:
        """The job that was submitted under this (non-empty) request id. Raises JobUnreadable."""

    async def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """The job's events with a sequence above ``after``, in order, superseded progress left out. Raises
        JobUnreadable."""

    async def unfinished(self) -> Unfinished:
        """Every job that has not ended."""

    async def page(self, selection: JobFilter, *, before_order: int | None, size: int, full: bool) -> list[Job]:
        """Up to ``size`` jobs, newest first, submitted before ``before_order``; without results unless ``full``. Fewer
        only when there are no more; those that cannot be read are left out."""

    async def counts(self) -> Mapping[JobState, int]:
        """Number of kept jobs by state."""

    async def states(self) -> Mapping[str, JobState | None]:
        """State of every kept job by id, those that cannot be read included; None for a state that is not known."""

    async def last_order(self) -> int:
        """Largest ``Job.order`` ever given out; 0 in a new store. Never falls, also when jobs are removed."""

    async def expired(self, *, keep: int | None, ended_before: float | None) -> list[str]:
        """Ended jobs that retention gives up: all but the ``keep`` that ended last (None: however many), and those
        whose ``end_time`` is before a time. Which ended last is told by the order in which their ends were written, not
        by the wall clock."""

    async def remove(self, job_ids: Sequence[str]) -> None:
        """Forgets ended jobs and their events. Their folders are the caller's."""


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Some sample records of a job, as the JSON objects that the engine wrote."""

    records: tuple[Mapping[str, object], ...]
    next_cursor: int


class SampleStore(Protocol):
    """Read side of a job's sample records. The worker appends them to the job's folder as they are scored."""

    async def read(self, job_dir: Path, after_cursor: int, max_bytes: int) -> SampleBatch:
        """Whole records after a cursor (0: from the start), at most ``max_bytes`` of JSON but at least one record if
        there is one. An empty batch means that there are no more yet. A cursor that no batch returned raises
        InvalidRequest."""
