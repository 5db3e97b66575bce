"""Who answers which requests: one queue for all replicas, and what becomes of requests whose replica died."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Sequence

LARGEST_WINDOW = 512
"""Requests that a replica gets at a time, at most: enough to sort by length."""
SMALLEST_WINDOW = 16
"""Towards the end windows get smaller, so that no replica has much left when the others have nothing; down to this, or
the batch size."""
MAX_DEATHS = 4
"""Replicas that one request may have been on when they died. Then it is taken to be the cause and fails: after the
first death it is tried again among few, after the second alone, and once more, because once may be chance."""
DEATHS_AMONG_OTHERS = 2
"""After so many deaths a request is tried alone."""


class WorkQueue:
    """Positions of the requests that are still to be answered. For many threads at once."""

    def __init__(self, count: int, replicas: int, batch_size: int | None = None) -> None:
        self._replicas = replicas
        self._smallest = max(1, min(max(SMALLEST_WINDOW, batch_size or 0), math.ceil(count / replicas)))
        self._fresh = deque(range(count))
        self._suspect: deque[Sequence[int]] = deque()
        """Windows that are not to be enlarged: what was in them may have ended a replica."""
        self._deaths: Counter[int] = Counter()
        self._open = count
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def stopped(self) -> bool:
        """Whether nobody waits for answers any longer."""
        return self._stopped

    @property
    def finished(self) -> bool:
        """Whether every request is answered."""
        return self._open == 0

    def take(self, *, wait: bool) -> Sequence[int] | None:
        """The next window.

        With ``wait``, for a replica that has nothing to do: waits for one, which a death may bring, and None says that
        everything is answered or stopped. Without, for one that is busy: None also when the rest is for others.
        """
        with self._changed:
            if not wait:
                plenty = len(self._fresh) > self._replicas * self._smallest
                return self._cut() if plenty and not self._stopped else None
            self._changed.wait_for(lambda: self._stopped or self._open == 0 or self._suspect or self._fresh)
            if self._stopped or self._open == 0:
                return None
            # What may end a replica comes last, when there is least to lose by it.
            return self._cut() if self._fresh else self._suspect.popleft()

    def give_back(self, indices: Sequence[int]) -> None:
        """Requests that were taken but not sent are the next again."""
        with self._changed:
            self._fresh.extendleft(reversed(indices))
            self._changed.notify_all()

    def note_answered(self, count: int) -> None:
        with self._changed:
            self._open -= count
            if self._open == 0:
                self._changed.notify_all()

    def redistribute(self, current: Sequence[int], waiting: Sequence[int]) -> list[int]:
        """Takes back what a dead replica had: ``current`` it was working on, ``waiting`` it had not begun.

        Returns:
            Those of ``current`` that were in :data:`MAX_DEATHS` deaths; they are not given to anybody again.
        """
        self.give_back(waiting)
        with self._changed:
            self._deaths.update(current)
            blamed = [index for index in current if self._deaths[index] >= MAX_DEATHS]
            few = [index for index in current if self._deaths[index] < DEATHS_AMONG_OTHERS]
            self._suspect.extend(few[start : start + SMALLEST_WINDOW] for start in range(0, len(few), SMALLEST_WINDOW))
            alone = [index for index in current if DEATHS_AMONG_OTHERS <= self._deaths[index] < MAX_DEATHS]
            self._suspect.extend([index] for index in alone)
            self._changed.notify_all()
        return blamed

    def stop(self) -> None:
        """Nobody waits for answers any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _cut(self) -> list[int]:
        share = math.ceil(len(self._fresh) / (2 * self._replicas))
        size = min(LARGEST_WINDOW, max(self._smallest, share), len(self._fresh))
        return [self._fresh.popleft() for _ in range(size)]
