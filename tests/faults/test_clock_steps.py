"""The wall clock is set forward and back by years; nothing but the dates that are shown depends on it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from lmms_eval_grpc.jobs.events import StateChange
from lmms_eval_grpc.jobs.spec import RetryPolicy
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import Journal, Scheduler, SchedulerSettings
from tests.jobs.examples import progress
from tests.scheduler.conftest import Service
from tests.scheduler.doubles import FailingStore, ScriptedExecutor, until

YEAR = 365 * 86400.0


async def test_jobs_run_time_out_rest_and_are_kept_by_the_time_that_passes(tmp_path: Path) -> None:
    steps = itertools.cycle([0.0, 30 * YEAR, -20 * YEAR, 5 * YEAR])
    store, executor = FailingStore(tmp_path / "jobs.sqlite3"), ScriptedExecutor()

    def clock() -> float:
        return 40 * YEAR + next(steps)

    journal = Journal(store, clock)
    settings = SchedulerSettings(tmp_path / "jobs", finished_job_ttl=3600.0, progress_interval=0.0)
    scheduler = Scheduler(store, executor, journal, settings, clock=clock)
    service = Service(store, executor, journal, scheduler, settings)
    await service.start()
    try:
        retried = await service.submit(run_timeout=600.0, retry_policy=RetryPolicy())
        hasty = await service.submit(run_timeout=0.05)
        first = await executor.execution(retried.job_id)
        log = await journal.log(retried.job_id)
        first.tell(*map(progress, range(20)))
        await until(lambda: log.job.progress is not None and log.job.progress.samples_done == 19)
        first.fail()
        await service.reaches(hasty.job_id, JobState.FAILED)
        (await executor.execution(retried.job_id, 2)).complete()
        await service.reaches(retried.job_id, JobState.COMPLETED)
        await asyncio.sleep(0.05)  # retention has had its turn
        for job in (retried, hasty):
            events = await store.events(job.job_id)
            times = [event.time for event in events]
            assert times == sorted(times)
            assert events[-1].terminal
            kept = await store.get(job.job_id)
            assert kept is not None, "removed, although it ended just now"
            assert kept.end_time is not None
            assert kept.start_time is not None
            assert kept.end_time >= kept.start_time
        attempts = [event.body.attempt for event in log.after(0) if isinstance(event.body, StateChange)]
        assert attempts == [0, 1, 1, 2, 2]
    finally:
        await service.stop()
