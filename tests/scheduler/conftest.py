"""A scheduler with everything around it, real but for the executor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.jobs.events import StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import Journal, Scheduler, SchedulerSettings
from tests.jobs.examples import spec
from tests.scheduler.doubles import PATIENCE, FailingStore, ScriptedExecutor


@dataclass
class Service:
    """One life of a server, without its network side."""

    store: FailingStore
    executor: ScriptedExecutor
    journal: Journal
    scheduler: Scheduler
    settings: SchedulerSettings
    running: bool = field(default=False)

    async def start(self) -> None:
        await self.store.open()
        await self.scheduler.start()
        self.running = True

    async def stop(self) -> None:
        """An orderly stop."""
        if self.running:
            self.running = False
            await self.scheduler.stop()
            self.journal.close()
            await self.store.close()

    @property
    def holders(self) -> list[str | None]:
        """Who has which device, be it that the job is not known to run yet or any more."""
        return [slot.job_id for slot in self.scheduler._dispatcher.slots.view()]

    async def submit(self, num_gpus: int = 1, device: str = "", **options: Any) -> Job:
        changes = {key: options.pop(key) for key in ("run_timeout", "retry_policy", "merge") if key in options}
        return await self.scheduler.submit(spec(num_gpus=num_gpus, device=device, **changes), **options)

    async def reaches(self, job_id: str, *states: JobState) -> Job:
        """The job, once it is in one of these states (or has been: then as it is now)."""
        log = await self.journal.log(job_id)
        seen = 0
        while True:
            for event in log.after(seen):
                seen = event.sequence
                if isinstance(event.body, StateChange) and event.body.state in states:
                    return log.job
            assert await log.wait_beyond(seen, PATIENCE), f"job {job_id} stays {log.job.state}"

    async def states(self, job_id: str) -> list[JobState]:
        """Every state that the job has been in."""
        log = await self.journal.log(job_id)
        return [event.body.state for event in log.after(0) if isinstance(event.body, StateChange)]


NewService = Callable[..., Awaitable[Service]]


@pytest.fixture
async def new_service(tmp_path: Path) -> AsyncIterator[NewService]:
    """Starts a server's life over the same state folder; the next one may follow when it has been stopped."""
    lives: list[Service] = []

    async def start(*devices: str, prepare: Callable[[Service], None] | None = None, **settings: Any) -> Service:
        store = FailingStore(tmp_path / "jobs.sqlite3")
        executor = ScriptedExecutor(devices or ("cpu",))
        journal = Journal(store)
        chosen = SchedulerSettings(tmp_path / "jobs", **{"stop_timeout": PATIENCE, **settings})
        service = Service(store, executor, journal, Scheduler(store, executor, journal, chosen), chosen)
        if prepare is not None:
            prepare(service)
        lives.append(service)
        await service.start()
        return service

    yield start
    for service in lives:
        await service.stop()


@pytest.fixture
async def service(new_service: NewService) -> Service:
    """A server with one CPU."""
    return await new_service()
