"""Progress on its way into the log: not too often, the newest never lost, with an estimate of the time left."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

from lmms_eval_grpc.jobs.results import JobStage, Progress
from lmms_eval_grpc.scheduler.signal import Signal


class ProgressThrottle:
    """Records the newest progress at most once per ``interval`` seconds; offering costs nothing and never waits."""

    def __init__(self, record: Callable[[Progress], Awaitable[None]], interval: float) -> None:
        """``record`` must not raise."""
        self._record = record
        self._interval = interval
        self._newest: Progress | None = None
        self._recorded_at = float("-inf")
        self._hurry = Signal()
        self._hurrying = False
        self._task: asyncio.Task[None] | None = None

    def offer(self, progress: Progress) -> None:
        """Takes a progress; an earlier one that was not recorded yet is dropped."""
        self._newest = progress
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def flush(self) -> None:
        """Returns once nothing waits to be recorded: what was offered last is recorded at once."""
        self._hurrying = True
        self._hurry.notify()
        try:
            if self._task is not None:
                await asyncio.wait({self._task})
        finally:
            self._hurrying = False

    async def _drain(self) -> None:
        while self._newest is not None:
            delay = self._recorded_at + self._interval - time.monotonic()
            if delay > 0.0 and not self._hurrying:
                await self._hurry.wait(delay)
            progress, self._newest = self._newest, None
            await self._record(progress)
            self._recorded_at = time.monotonic()


class RemainingTime:
    """Estimates how long one attempt will still take from how fast it has been so far."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: tuple[float, int] | None = None

    def complete(self, progress: Progress) -> Progress:
        """``progress`` with ``remaining_seconds`` where it has none and one can be told: while samples are answered,
        at the worker's own rate or, without one, at the rate seen here since the first answer."""
        if progress.remaining_seconds is not None or progress.stage is not JobStage.GENERATING:
            return progress
        if progress.samples_total <= 0:
            return progress
        now, done = self._monotonic(), progress.samples_done
        if self._since is None:
            self._since = (now, done)
        rate = progress.samples_per_second
        if rate <= 0.0 and now > self._since[0]:
            rate = (done - self._since[1]) / (now - self._since[0])
        if rate <= 0.0:
            return progress
        return dataclasses.replace(progress, remaining_seconds=max(0, progress.samples_total - done) / rate)
