"""A server that runs out: how much of its work is still done, and for how long."""

from __future__ import annotations

import asyncio
import math
import time

from lmms_eval_grpc.scheduler import Scheduler

_LOOK_EVERY = 1.0
"""Seconds between two looks: not all that ends the work is a change of the queue, such as a job that could not be taken
in."""


class Draining:
    """Waits for a scheduler's last jobs. Orders can make the wait shorter, never longer."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._deadline = math.inf
        self._stricter = asyncio.Event()

    async def order(self, *, finish_queued: bool, timeout: float | None) -> None:
        """Refuses new jobs from now on. See :meth:`Scheduler.drain`, also for what it raises.

        Args:
            finish_queued: whether the queued jobs are run too.
            timeout: seconds that the jobs get from now on; None: no bound.
        """
        await self._scheduler.drain(finish_queued=finish_queued)
        if timeout is not None:
            self._deadline = min(self._deadline, time.monotonic() + timeout)
        self._stricter.set()

    async def wait(self) -> None:
        """Returns when there is nothing left to do, or the time is over."""
        feed = self._scheduler.queue_changes
        while self._scheduler.busy and (left := self._deadline - time.monotonic()) > 0:
            self._stricter.clear()
            bound = min(left, _LOOK_EVERY)
            waits = {
                asyncio.create_task(feed.wait_beyond(feed.revision, bound)),
                asyncio.create_task(self._stricter.wait()),
            }
            try:
                await asyncio.wait(waits, timeout=bound, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
