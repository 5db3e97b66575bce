"""The jobs that wait, in the order in which they will run."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.scheduler.slots import SlotView


@dataclass(frozen=True, slots=True)
class QueueView:
    """The queue at one moment."""

    revision: int
    """Revision of the queue feed that this view belongs to."""
    accepting: bool
    """Whether new jobs are taken in."""
    trouble: str | None
    """Why they cannot be taken in although the server does not drain; None when nothing is wrong."""
    pause_reason: str | None
    """Why no further jobs are started; None when they are."""
    draining: bool
    """Whether the server takes in no new jobs any more and will stop."""
    running: tuple[str, ...]
    """Ids of jobs that run or are being cancelled, first started first."""
    queued: tuple[str, ...]
    """Ids of jobs that wait, next first."""
    capacity: int
    """Jobs that may wait at once."""
    slots: tuple[SlotView, ...]


class JobQueue:
    """Queued jobs by priority, then submission, which a failed attempt counts as, too. A pure data structure: no I/O,
    no clock."""

    def __init__(self) -> None:
        self._keys: list[tuple[int, int, int]] = []
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[int, int, int], str] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        """The jobs, next first."""
        return (self._jobs[self._by_key[key]] for key in self._keys)

    def add(self, job: Job) -> None:
        """Puts a job in its place. Raises ValueError if it is there already."""
        if job.job_id in self._jobs:
            raise ValueError(f"job {job.job_id} is queued already")
        bisect.insort(self._keys, job.queue_key)
        self._jobs[job.job_id] = job
        self._by_key[job.queue_key] = job.job_id

    def discard(self, job_id: str) -> None:
        """Takes a job out, if it is there."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            del self._keys[bisect.bisect_left(self._keys, job.queue_key)]
            del self._by_key[job.queue_key]

    def position(self, job_id: str) -> int | None:
        """How many jobs run before it; None when it does not wait."""
        job = self._jobs.get(job_id)
        return None if job is None else bisect.bisect_left(self._keys, job.queue_key)

    def ids(self) -> tuple[str, ...]:
        """Ids of all, next first."""
        return tuple(self._by_key[key] for key in self._keys)
