"""The latest changes of the queue, for those who follow it."""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass

from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.signal import Signal


@dataclass(frozen=True, slots=True)
class QueueChange:
    """A job entered a state."""

    revision: int
    """Revision of the queue after this change."""
    job_id: str
    previous: JobState | None
    """None for a new job."""
    state: JobState
    time: float
    """Seconds since the epoch."""


class QueueFeed:
    """A ring of changes. A follower is a revision and nothing else; one that fell behind takes a new snapshot."""

    def __init__(self, capacity: int = 4096) -> None:
        self._changes: deque[QueueChange | None] = deque(maxlen=capacity)
        self._revision = 0
        self._signal = Signal()
        self._closed = False

    @property
    def revision(self) -> int:
        """Grows by one with every change; 0 before the first."""
        return self._revision

    @property
    def closed(self) -> bool:
        """Whether no further changes will be told."""
        return self._closed

    def publish(self, job_id: str, previous: JobState | None, state: JobState, at: float) -> QueueChange:
        """Adds a change and wakes the followers."""
        self._revision += 1
        change = QueueChange(self._revision, job_id, previous, state, at)
        self._changes.append(change)
        self._signal.notify()
        return change

    def renew(self) -> None:
        """Has every follower take a new snapshot: something changed that is no job's change of state."""
        self._revision += 1
        self._changes.append(None)
        self._signal.notify()

    def after(self, revision: int) -> list[QueueChange] | None:
        """Changes after ``revision``, oldest first, as far as they go; None when the follower needs a snapshot: what
        comes next is not kept any more, or no change of a job, or the revision is not one of this feed."""
        missed = self._revision - revision
        if missed < 0 or missed > len(self._changes):
            return None
        if missed == 0:
            return []
        # From the right: a follower is nearly always close to the end.
        newest_first = reversed(self._changes)
        following = [next(newest_first) for _ in range(missed)][::-1]
        changes = itertools.takewhile(lambda change: change is not None, following)
        return [change for change in changes if change is not None] or None

    async def wait_beyond(self, revision: int, timeout: float | None) -> bool:
        """Whether there is a change after ``revision`` within ``timeout`` seconds. False at once when closed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._revision <= revision:
            remaining = None if deadline is None else deadline - time.monotonic()
            if self._closed or (remaining is not None and remaining <= 0):
                return False
            await self._signal.wait(remaining)
        return True

    def close(self) -> None:
        """Wakes every follower for good."""
        self._closed = True
        self._signal.notify()
