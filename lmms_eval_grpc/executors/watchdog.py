"""When a worker hangs: it no longer answers, or it answers and nothing moves.

A heartbeat comes from a thread of its own, so it proves no more than that the process runs. What counts as progress is
something answered, scored, begun or read. Time is counted by this process's own looks: neither a stopped machine nor a
server that was busy elsewhere makes a worker look silent.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lmms_eval_grpc.jobs.results import JobError, JobErrorCode, JobStage, Progress

_LEAST_READ = 1 << 20
"""Bytes that a worker must have read for that to count: less is read by whoever only looks around."""
_LONGEST_PAUSE = 5.0
_LOOKS = 8
"""Looks within the shorter of the two times."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a worker may take, None: for ever."""

    heartbeat: float | None
    """Between two signs of life. One that waits in the kernel (a driver, a network file system) gets all the time that
    it needs: it cannot be killed anyway."""
    stall: float | None
    """Between two steps forward."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A worker as the kernel sees it."""

    state: str
    """Of its first process, as in ``/proc/PID/stat``; empty when that is gone."""
    bytes_read: int
    """By all its processes so far."""


class Watchdog:
    """Follows one worker. :meth:`heard` and :meth:`moved` are told, :meth:`wait_for_hang` ends when it hangs."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._silent = 0.0
        self._idle = 0.0
        self._steps = -1
        self._bytes_read = 0
        self._progress = Progress(JobStage.STARTING)

    def heard(self) -> None:
        """The worker said something, whatever it was."""
        self._silent = 0.0

    def moved(self) -> None:
        """The worker got on."""
        self._idle = 0.0

    def beat(self, steps: int) -> None:
        """A heartbeat that tells how many steps the worker has made."""
        if steps != self._steps:
            self._steps = steps
            self.moved()

    def progressed(self, progress: Progress) -> None:
        """A progress report; one that says what was known is none."""
        known, self._progress = self._progress, progress
        if _comparable(progress) != _comparable(known):
            self.moved()

    async def wait_for_hang(self, look: Callable[[], Awaitable[Condition]]) -> JobError:
        """Returns when the worker hangs, with why it is taken to; never when nothing bounds it."""
        patience = self._patience
        bounds = [bound for bound in (patience.heartbeat, patience.stall) if bound is not None]
        if not bounds:
            await asyncio.get_running_loop().create_future()
        interval = min(min(bounds) / _LOOKS, _LONGEST_PAUSE)
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(interval)
            now = loop.time()
            # A longer pause was this process's own, or the machine's.
            passed, last = min(now - last, 2 * interval), now
            self._silent += passed
            self._idle += passed
            if patience.heartbeat is not None and self._silent >= patience.heartbeat:
                condition = await look()
                if condition.state not in ("", "D") and self._silent >= patience.heartbeat:
                    return self._no_heartbeat(condition, patience.heartbeat)
            if patience.stall is not None and self._idle >= patience.stall / 2:
                condition = await look()
                # Less than before, where a process that it started has ended: then what others read counts from here.
                self._bytes_read = min(self._bytes_read, condition.bytes_read)
                if condition.bytes_read - self._bytes_read >= _LEAST_READ:
                    self._bytes_read = condition.bytes_read
                    self.moved()
                elif self._idle >= patience.stall and condition.state:
                    return self._no_progress(condition, patience.stall)

    def _no_heartbeat(self, condition: Condition, seconds: float) -> JobError:
        why = {"T": "it was stopped by a signal", "t": "a debugger holds it"}.get(
            condition.state, "something in it keeps all its threads from running"
        )
        message = f"the worker gave no sign of life for {seconds:g} s while {self._where()}; {why}; it was killed"
        return self._error("NO_HEARTBEAT", message, condition, heartbeat_timeout_seconds=f"{seconds:g}")

    def _no_progress(self, condition: Condition, seconds: float) -> JobError:
        message = (
            f"the worker lives, but nothing was answered, scored, begun or read for {seconds:g} s while"
            f" {self._where()}; it was killed; raise stall_timeout if the job merely is that slow"
        )
        return self._error("NO_PROGRESS", message, condition, stall_timeout_seconds=f"{seconds:g}")

    def _where(self) -> str:
        progress = self._progress
        task = f" task {progress.task}" if progress.task else ""
        counts = f", {progress.samples_done} of {progress.samples_total} samples" if progress.samples_total else ""
        return f"at stage {progress.stage.value}{task}{counts}"

    def _error(self, reason: str, message: str, condition: Condition, **more: str) -> JobError:
        details = {"stage": self._progress.stage.value, "task": self._progress.task, "state": condition.state, **more}
        return JobError(JobErrorCode.STALLED, reason, message, {key: value for key, value in details.items() if value})


def _comparable(progress: Progress) -> Progress:
    """Without what changes although nothing moves."""
    return dataclasses.replace(progress, samples_per_second=0.0, remaining_seconds=None)
