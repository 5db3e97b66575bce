"""Ended jobs are kept for a while, and then leave nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import JobNotFound
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import Journal, SchedulerSettings
from lmms_eval_grpc.scheduler.retention import Retention
from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.jobs.examples import submitted
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import PATIENCE


async def completed(service: Service) -> Job:
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    (execution.job_dir / "samples.jsonl").write_text("{}\n")
    (execution.job_dir / "results").mkdir()
    execution.complete()
    return await service.reaches(job.job_id, JobState.COMPLETED)


async def kept(service: Service) -> list[str]:
    return [job.job_id for job in await service.store.page(JobFilter(), before_order=None, size=100, full=False)]


async def gone(service: Service, job_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while job_id in await kept(service):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_only_so_many_ended_jobs_are_kept(new_service: NewService) -> None:
    service = await new_service(max_finished_jobs=2)
    jobs = [await completed(service) for _ in range(4)]
    await gone(service, jobs[1].job_id)
    assert await kept(service) == [jobs[3].job_id, jobs[2].job_id]
    for job in jobs[:2]:
        assert not service.scheduler.job_dir(job.job_id).exists()
        with pytest.raises(JobNotFound):
            await service.journal.log(job.job_id)
    for job in jobs[2:]:
        assert service.scheduler.job_dir(job.job_id).is_dir()
        assert (await service.journal.log(job.job_id)).job.state is JobState.COMPLETED


async def test_what_waits_or_runs_is_never_removed(new_service: NewService) -> None:
    service = await new_service(max_finished_jobs=0)
    gone_job = await completed(service)
    running, waiting = await service.submit(), await service.submit()
    execution = await service.executor.execution(running.job_id)
    await gone(service, gone_job.job_id)
    await service.scheduler.cancel(waiting.job_id, "")
    await gone(service, waiting.job_id)
    assert await kept(service) == [running.job_id]
    assert execution.job_dir.is_dir()


async def test_a_restart_removes_what_has_become_too_much(new_service: NewService) -> None:
    service = await new_service()
    jobs = [await completed(service) for _ in range(3)]
    await service.stop()
    service = await new_service(max_finished_jobs=1)
    await gone(service, jobs[1].job_id)
    assert await kept(service) == [jobs[2].job_id]


async def test_jobs_end_with_their_time(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    now = 1000.0
    journal = Journal(store, lambda: now)
    settings = SchedulerSettings(tmp_path / "jobs", finished_job_ttl=100.0)
    retention = Retention(store, journal, lambda job_id: tmp_path / "jobs" / job_id, settings, lambda: now)
    for order in range(1, 4):
        job = await journal.create(submitted(order, create_time=now))
        now += 40.0
        await journal.enter(job.job_id, JobState.CANCELLED)
        (tmp_path / "jobs" / job.job_id).mkdir(parents=True)
    assert await retention.sweep() == 0
    now = 1145.0  # They ended at 1040, 1080 and 1120.
    assert await retention.sweep() == 1
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["job-2", "job-3"]
    now = 2000.0
    assert await retention.sweep() == 2
    assert list((tmp_path / "jobs").iterdir()) == []
    await store.close()


async def test_a_job_without_a_folder_is_removed_too(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    settings = SchedulerSettings(tmp_path / "jobs", max_finished_jobs=0)
    retention = Retention(store, journal, lambda job_id: tmp_path / "jobs" / job_id, settings)
    for order in range(1, 200):
        job = await journal.create(submitted(order))
        await journal.enter(job.job_id, JobState.CANCELLED)
    assert await retention.sweep() == 199
    assert await retention.sweep() == 0
    await store.close()
