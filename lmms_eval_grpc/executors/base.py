"""What the scheduler needs of any executor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lmms_eval_grpc.jobs.events import WorkerReport
from lmms_eval_grpc.jobs.job import Job


@dataclass(frozen=True, slots=True)
class Device:
    """One device that a job can hold."""

    name: str
    """As users write it: ``cuda:0`` or ``cpu``."""
    product: str = ""
    memory_bytes: int = 0


class Execution(Protocol):
    """One attempt of one job."""

    def reports(self) -> AsyncIterator[WorkerReport]:
        """What the worker reports: any number of Progress and TaskResult, then one Completed, Failed or Stopped.

        The last report comes only when the worker and every process of its group are gone. A worker that died without a
        last word is reported as Failed with its exit status or signal and the end of its log.
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
        """Kills what a server that died has left running for these jobs."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices, in slot order; fixed once started."""

    @property
    def warm(self) -> bool:
        """Whether the next worker starts from the warm template."""

    async def execute(self, job: Job, devices: Sequence[Device], job_dir: Path) -> Execution:
        """Starts the job on these devices. ``job.attempt`` counts from 1. A start that fails is a Failed report, not an
        exception."""
