"""What the scheduler needs of any executor."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lmms_eval_grpc.jobs.events import WorkerReport
from lmms_eval_grpc.jobs.job import Job

SHORTAGES = frozenset(
    {
        *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS),
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE),
    }
)
"""Error numbers of a machine that has run out of something or is in trouble: the next job would fare no better."""


def is_shortage(error: BaseException) -> bool:
    """Whether an operation failed for want of something that the whole machine shares, and not because of its job."""
    if isinstance(error, OSError):
        return error.errno in SHORTAGES
    # The second is how Python says that the system gave it no thread.
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))


@dataclass(frozen=True, slots=True)
class Device:
    """One device that a job can hold."""

    name: str
    """As users write it: ``cuda:0`` or ``cpu``, after the host's name and a slash where there are several hosts."""
    product: str = ""
    memory_bytes: int = 0
    host: str = ""
    """The machine that it is on; empty for the server's own. A job's devices are all on one."""

    @property
    def kind(self) -> str:
        """``cuda`` or ``cpu``."""
        return self.name.rpartition("/")[2].partition(":")[0]


class Execution(Protocol):
    """One attempt of one job."""

    def reports(self) -> AsyncIterator[WorkerReport]:
        """What the worker reports: any number of Progress and TaskResult, then one Completed, Failed, Stopped,
        NotStarted or HostLost.

        The last report comes only when the worker and every process of its group are gone, or when the executor keeps
        the worker's model for a next job: it then sees to it that no other job shares its devices with it. Of a host
        that cannot be reached any more it comes when they have had the time to end themselves. A worker that died
        without a last word is reported as Failed with its exit status or signal and the end of its log. A reader that
        gave up may call this again, and goes on where it stopped.
        """

    async def cancel(self, reason: str) -> None:
        """Asks the worker to stop, and kills its process group if it does not within the grace time. Idempotent."""


class Executor(Protocol):
    """Runs jobs."""

    async def start(self) -> None:
        """Gets ready. Returns at once; what takes long (the template's imports) goes on behind."""

    async def stop(self) -> None:
        """Kills what still runs and returns when nothing of it is left."""

    async def clear_leftovers(self, job_dirs: Sequence[Path]) -> None:
        """Kills what a server that died has left running for these jobs; waits for its end, but not for ever."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices, in slot order; fixed once started, unless they are elastic."""

    @property
    def elastic(self) -> bool:
        """Whether devices come and go: what there is none of now may come."""

    def when_devices_change(self, callback: Callable[[], None]) -> None:
        """Has ``callback`` called, on the event loop, whenever ``devices`` has changed. A job whose device has gone is
        reported as ever."""

    @property
    def warm(self) -> bool:
        """Whether the next worker starts from the warm template."""

    async def execute(self, job: Job, devices: Sequence[Device], job_dir: Path) -> Execution:
        """Starts the job on these devices. ``job.attempt`` counts from 1. A start that fails is a report, not an
        exception: Failed when it is the job's fault, NotStarted when another job would not have been started either."""


@dataclass(frozen=True, slots=True)
class ExpectedJob:
    """A job that waits, and what it will probably be executed with."""

    job: Job
    """As it waits: its next attempt has the number ``attempt + 1``."""
    devices: tuple[Device, ...]
    job_dir: Path


@runtime_checkable
class LooksAhead(Protocol):
    """What an executor has as well that can do something for jobs before there are devices for them."""

    def expect(self, upcoming: Sequence[ExpectedJob], begun: Collection[str]) -> None:
        """Tells which jobs will be executed next, one per device at most, as things stand now.

        Takes the place of what was told before: what was done for a job that is neither among them any more nor begun
        is undone. Returns at once and never fails; a job must run as well if nothing came of it.

        Args:
            begun: ids of jobs that have their devices, and are being executed or about to be.
        """
