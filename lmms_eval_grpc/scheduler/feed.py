"""The latest changes of the queue, for those who follow it."""

from __future__ import annotations

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
        self._changes: deque[QueueChange] = deque(maxlen=capacity)
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

    def after(self, revision: int) -> list[QueueChange] | None:
        """The changes after ``revision``, oldest first; None when they are not all kept any more, or when the revision
        is not one of this feed: the follower then needs a snapshot."""
        missed = self._revision - revision
        if missed < 0 or missed > len(self._changes):
            return None
        if missed == 0:
            return []
        # From the right: a follower is nearly always close to the end.
        newest_first = reversed(self._changes)
        return [next(newest_first) for _ in range(missed)][::-1]

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
