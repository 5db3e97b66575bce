"""An executor without workers: each job plays the script that its labels hold."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lmms_eval_grpc.executors.base import Device, ExpectedJob
from lmms_eval_grpc.jobs.events import Completed, Stopped, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import EvaluationResult, JobStage, Metric, Progress, TaskResult

LABEL = "script"
"""The label that holds a job's script, as JSON."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a worker does."""

    seconds: float = 0.0
    """How long the job runs. Below 0: until it is cancelled, reporting what it is told to."""
    progress_every: float = 0.25
    """Seconds between two reports of progress."""
    phase: float = 0.0
    """Seconds until the first of them."""
    metrics: int = 0
    """Metrics of a task's result, which is reported with the second of them. 0: none is. One has some 100 bytes."""

    def labels(self) -> dict[str, str]:
        """The labels of a job that plays this."""
        return {LABEL: json.dumps(asdict(self))}


def stamped(done: int) -> Progress:
    """A progress whose ``bytes_done`` is the time of its report: nanoseconds of the clock that all processes share."""
    return Progress(
        JobStage.GENERATING,
        task="handwritten_digits",
        samples_done=done,
        samples_total=1_000,
        samples_per_second=4.0,
        bytes_done=time.monotonic_ns(),
    )


class PlayedExecution:
    """One attempt of one job."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._cancelled = asyncio.Event()
        self._told: asyncio.Queue[WorkerReport] = asyncio.Queue()
        self._done = 0

    def report(self) -> None:
        """Has a job that runs until it is cancelled report progress now."""
        self._done += 1
        self._told.put_nowait(stamped(self._done))

    async def cancel(self, reason: str) -> None:
        """The worker stops at once."""
        self._cancelled.set()
        self._told.put_nowait(Stopped())

    async def reports(self) -> AsyncIterator[WorkerReport]:
        """The script's reports, each at its time."""
        if self._script.seconds < 0:
            while not isinstance(report := await self._told.get(), Stopped):
                yield report
            yield report
            return
        began = time.monotonic()
        for at, make in self._parts():
            try:
                await asyncio.wait_for(self._cancelled.wait(), max(0.0, began + at - time.monotonic()))
            except TimeoutError:
                yield make()
            else:
                yield Stopped()
                return

    def _parts(self) -> Iterator[tuple[float, Callable[[], WorkerReport]]]:
        script = self._script
        count = round(script.seconds / script.progress_every)
        for number in range(count):
            at = script.phase + number * script.progress_every
            if script.metrics and number == 1:
                yield at, lambda: _result(script.metrics)
            yield at, lambda number=number: stamped(number)  # type: ignore[misc]
        result = EvaluationResult(task_results=(_result(1),), group_results=(), results_json="{}")
        yield script.phase + script.seconds, lambda: Completed(result)


class PlayedExecutor:
    """The executor; implements what the scheduler asks of a local one."""

    elastic = False
    warm = True

    def __init__(self, slots: int) -> None:
        self.devices = tuple(Device(f"cuda:{number}") for number in range(slots))
        self._executions: dict[str, PlayedExecution] = {}
        self._begun = asyncio.Condition()

    async def start(self) -> None:
        """Nothing to get ready."""

    async def stop(self) -> None:
        """Ends what runs."""
        for execution in self._executions.values():
            await execution.cancel("the server stops")

    async def clear_leftovers(self, job_dirs: Sequence[Path]) -> None:
        """There are no processes."""

    def when_devices_change(self, callback: Callable[[], None]) -> None:
        """They never do."""

    def expect(self, upcoming: Sequence[ExpectedJob], begun: Collection[str]) -> None:
        """Nothing is prepared; that the scheduler finds out what comes next is part of what is measured."""

    async def execute(self, job: Job, devices: Sequence[Device], job_dir: Path) -> PlayedExecution:
        """Plays the job's script."""
        script = Script(**json.loads(job.labels.get(LABEL, "{}")))
        execution = PlayedExecution(script)
        if script.seconds < 0:
            async with self._begun:
                self._executions[job.job_id] = execution
                self._begun.notify_all()
        return execution

    async def execution(self, job_id: str) -> PlayedExecution:
        """That of a job that runs until it is cancelled, once it has begun."""
        async with self._begun:
            await self._begun.wait_for(lambda: job_id in self._executions)
        return self._executions[job_id]


def _result(metrics: int) -> TaskResult:
    scores = tuple(
        Metric(f"subject_{number:03d}_exact_match", "flexible-extract", 0.5, 0.05, sample_count=100)
        for number in range(metrics)
    )
    return TaskResult("handwritten_digits", "1", scores, 1_000, 1_000, 0, 2.5)
