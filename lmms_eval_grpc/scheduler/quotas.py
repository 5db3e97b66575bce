"""How many jobs an owner may have that have not ended, and how fast it may submit them."""

from __future__ import annotations

import time
from collections.abc import Callable

from lmms_eval_grpc.jobs.errors import ServiceError, TooManyJobs, TooManySubmissions

_WINDOW = 60.0
_TOLERANCE = 1e-6
"""Seconds: who waits exactly as long as it was told to must not be refused for a rounding."""
_SWEEP_FROM = 256


class Quotas:
    """Counts the jobs of each owner. Takes memory only for owners that have a job which has not ended, or that
    submitted one not long ago.

    Args:
        max_jobs: jobs that wait or run, of one owner. None: no bound.
        per_minute: jobs that one owner may submit in a minute, in bursts of as many. None: no bound.
        clock: seconds that never go back.
    """

    def __init__(
        self, max_jobs: int | None, per_minute: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_jobs = max_jobs
        self._per_minute = per_minute
        self._clock = clock
        self._jobs: dict[str, set[str]] = {}
        # A token bucket that holds a minute's worth, as the time at which it will be full again.
        self._full_at: dict[str, float] = {}
        self._sweep_at = _SWEEP_FROM

    @property
    def owners(self) -> int:
        """Owners that something is kept of."""
        return len(self._jobs.keys() | self._full_at.keys())

    def refusal(self, owner: str, retry_after: float) -> ServiceError | None:
        """Why one more job of ``owner`` is refused now. ``retry_after``: seconds until one may have ended."""
        if self._max_jobs is not None and len(self._jobs.get(owner, ())) >= self._max_jobs:
            return TooManyJobs(owner, self._max_jobs, retry_after)
        if self._per_minute is not None:
            missing = self._full_at.get(owner, 0.0) - self._clock() - (_WINDOW - _WINDOW / self._per_minute)
            if missing > _TOLERANCE:
                return TooManySubmissions(owner, self._per_minute, missing)
        return None

    def submitted(self, owner: str, job_id: str) -> None:
        """Counts a new job, from the moment in which it was not refused."""
        self.opened(owner, job_id)
        if self._per_minute is not None:
            now = self._clock()
            self._full_at[owner] = max(self._full_at.get(owner, now), now) + _WINDOW / self._per_minute
            self._sweep(now)

    def withdrawn(self, owner: str, job_id: str) -> None:
        """Takes :meth:`submitted` back: the request had made a job before, or the new one could not be stored."""
        self.ended(owner, job_id)
        if self._per_minute is not None and owner in self._full_at:
            self._full_at[owner] -= _WINDOW / self._per_minute

    def opened(self, owner: str, job_id: str) -> None:
        """Counts a job that has not ended. It may be counted already."""
        self._jobs.setdefault(owner, set()).add(job_id)

    def ended(self, owner: str, job_id: str) -> None:
        """Forgets a job."""
        jobs = self._jobs.get(owner)
        if jobs is not None:
            jobs.discard(job_id)
            if not jobs:
                del self._jobs[owner]

    def _sweep(self, now: float) -> None:
        """Forgets the buckets that are full; often enough that those forgotten pay for the work."""
        if len(self._full_at) < self._sweep_at:
            return
        self._full_at = {owner: full_at for owner, full_at in self._full_at.items() if full_at > now}
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._full_at))
