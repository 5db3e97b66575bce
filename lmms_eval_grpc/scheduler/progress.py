"""Progress on its way into the log: not too often, the newest never lost, with an estimate of the time left."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

from lmms_eval_grpc.jobs.results import JobStage, Progress
from lmms_eval_grpc.scheduler.signal import Signal


def next_due(due: float, now: float, interval: float) -> float:
    """When the record after one that was due at ``due``, and is made at ``now``, may be made.

    One that is a little late does not put off the next: a worker that reports at just this pace would otherwise be
    further behind with every report, and in the end lose one.
    """
    return (due if 0 <= now - due < interval / 2 else now) + interval


class ProgressThrottle:
    """Records the newest progress at most once per ``interval`` seconds, on average, and never twice in half of them;
    offering costs nothing and never waits."""

    def __init__(self, record: Callable[[Progress], Awaitable[None]], interval: float) -> None:
        """``record`` must not raise."""
        self._record = record
        self._interval = interval
        self._newest: Progress | None = None
        self._due = float("-inf")
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
            delay = self._due - time.monotonic()
            if delay > 0.0 and not self._hurrying:
                await self._hurry.wait(delay)
            progress, self._newest = self._newest, None
            self._due = next_due(self._due, time.monotonic(), self._interval)
            await self._record(progress)


class RemainingTime:
    """Estimates how long one attempt will still take from how fast it has been so far."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: dict[JobStage, tuple[float, int]] = {}

    def complete(self, progress: Progress) -> Progress:
        """``progress`` with ``remaining_seconds`` where it has none and one can be told: while samples are answered,
        at the worker's own rate or, without one, at the rate seen here since the first answer; while bytes are merged,
        the time that the merge still takes."""
        if progress.remaining_seconds is not None:
            return progress
        match progress.stage:
            case JobStage.GENERATING:
                done, total, rate = progress.samples_done, progress.samples_total, progress.samples_per_second
            case JobStage.MERGING:
                done, total, rate = progress.bytes_done, progress.bytes_total, 0.0
            case _:
                return progress
        if total <= 0:
            return progress
        now = self._monotonic()
        began, done_then = self._since.setdefault(progress.stage, (now, done))
        if rate <= 0.0 and now > began:
            rate = (done - done_then) / (now - began)
        if rate <= 0.0:
            return progress
        return dataclasses.replace(progress, remaining_seconds=max(0, total - done) / rate)
