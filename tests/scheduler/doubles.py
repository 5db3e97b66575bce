"""An executor that does as the test says, and a store that fails when the test says so.

The real executor is tested with real processes in ``tests/executors``; here it stands behind its protocol so that every
order of events can be played through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from lmms_eval_grpc.executors.base import Device, Execution
from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.events import Completed, Failed, HostLost, JobEvent, NotStarted, Stopped, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.jobs.examples import result

PATIENCE = 30.0
"""Seconds after which a test gives up waiting for something that should have happened."""

KILLED = JobError(JobErrorCode.WORKER_DIED, "WORKER_KILLED", "the worker was killed", {"signal": "SIGKILL"})


async def until(condition: Callable[[], bool]) -> None:
    """Waits until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (any condition, not only those that have an event)
            await asyncio.sleep(0.002)


class ScriptedExecution:
    """An attempt whose worker reports what the test tells it to."""

    def __init__(self, job: Job, devices: Sequence[Device], job_dir: Path, *, obedient: bool) -> None:
        self.job = job
        self.devices = tuple(device.name for device in devices)
        self.job_dir = job_dir
        self.cancellations: list[str] = []
        self.gone = False
        self._obedient = obedient
        self._reports: asyncio.Queue[WorkerReport | BaseException | None] = asyncio.Queue()

    def tell(self, *reports: WorkerReport) -> None:
        """Has the worker report something."""
        for report in reports:
            self._reports.put_nowait(report)

    def complete(self) -> None:
        """Has the worker finish."""
        self.tell(Completed(result()))

    def fail(self, error: JobError = KILLED) -> None:
        """Has the worker fail."""
        self.tell(Failed(error))

    def break_with(self, error: BaseException | None) -> None:
        """Has the executor itself raise in the middle of the reports; None: they end without a last word."""
        self._reports.put_nowait(error)

    async def reports(self) -> AsyncIterator[WorkerReport]:
        while not self.gone:
            report = await self._reports.get()
            if report is None:
                return
            if isinstance(report, BaseException):
                raise report
            self.gone = isinstance(report, Completed | Failed | Stopped | NotStarted | HostLost)
            yield report

    async def cancel(self, reason: str) -> None:
        self.cancellations.append(reason)
        if self._obedient:
            self.tell(Stopped())


class ScriptedExecutor:
    """Starts nothing, keeps what it was asked for."""

    def __init__(self, devices: Sequence[str] = ("cpu",)) -> None:
        self._devices = tuple(Device(name, host=name.rpartition("/")[0]) for name in devices)
        self._on_change: Callable[[], None] = lambda: None
        self.elastic = False
        self.executions: list[ScriptedExecution] = []
        self.cleared: list[Path] = []
        self.started = False
        self.stopped = False
        self.obedient = True
        """Whether workers stop when they are asked to."""
        self.refusal: Exception | None = None
        """What :meth:`execute` raises."""
        self.hold: asyncio.Event | None = None
        """What :meth:`execute` waits for."""
        self.kills = True
        """Whether :meth:`stop` gets a last word out of the workers."""

    @property
    def devices(self) -> tuple[Device, ...]:
        return self._devices

    def when_devices_change(self, callback: Callable[[], None]) -> None:
        self._on_change = callback

    def change_devices(self, *names: str) -> None:
        """Has devices come and go."""
        self._devices = tuple(Device(name, host=name.rpartition("/")[0]) for name in names)
        self._on_change()

    @property
    def warm(self) -> bool:
        return True

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        self.stopped = True
        if self.kills:
            for execution in self.executions:
                if not execution.gone:
                    execution.fail()

    async def clear_leftovers(self, job_dirs: Sequence[Path]) -> None:
        self.cleared.extend(job_dirs)

    async def execute(self, job: Job, devices: Sequence[Device], job_dir: Path) -> Execution:
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is not None:
            raise self.refusal
        execution = ScriptedExecution(job, devices, job_dir, obedient=self.obedient)
        self.executions.append(execution)
        return execution

    @property
    def order(self) -> list[int]:
        """Submission orders of the jobs started so far, first started first."""
        return [execution.job.order for execution in self.executions]

    async def execution(self, job_id: str, attempt: int = 1) -> ScriptedExecution:
        """The job's attempt, once it has been started."""

        def found() -> ScriptedExecution | None:
            return next(
                (one for one in self.executions if one.job.job_id == job_id and one.job.attempt == attempt), None
            )

        await until(lambda: found() is not None)
        execution = found()
        assert execution is not None
        return execution


class FailingStore(SqliteStore):
    """A real store whose writes fail while ``broken`` is set, and wait for ``gate`` where there is one."""

    broken = False
    refused = 0
    gate: asyncio.Event | None = None

    async def insert(self, job: Job, event: JobEvent) -> None:
        await self._admit()
        await super().insert(job, event)

    async def append(self, job: Job, event: JobEvent) -> None:
        await self._admit()
        await super().append(job, event)

    async def amend(self, job: Job) -> None:
        await self._admit()
        await super().amend(job)

    async def _admit(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            self.refused += 1
            raise StoreUnavailable("the disk is full")
