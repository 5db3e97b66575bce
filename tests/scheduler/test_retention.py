"""Ended jobs are kept for a while, and then leave nothing behind."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
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


async def test_a_clock_that_is_set_back_costs_no_job(tmp_path: Path) -> None:
    now = 1e9
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store, lambda: now)
    settings = SchedulerSettings(tmp_path / "jobs", max_finished_jobs=2)
    retention = Retention(store, journal, lambda job_id: tmp_path / "jobs" / job_id, settings, lambda: now)
    for order in range(1, 6):
        if order == 4:
            now -= 3600.0  # It had been an hour fast.
        now += 10.0
        job = await journal.create(submitted(order, create_time=now))
        await journal.enter(job.job_id, JobState.CANCELLED)
        await retention.sweep()
        kept_jobs = await store.page(JobFilter(), before_order=None, size=10, full=False)
        assert [each.order for each in kept_jobs] == [order, order - 1][: min(order, 2)]
    await store.close()


class Aging:
    """Jobs that are given up by age, with clocks that the test sets."""

    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.wall, self.monotonic = 1000.0, 0.0
        self.journal = Journal(store, lambda: self.wall)
        self._store, self._folder = store, folder

    def retention(self, ttl: float) -> Retention:
        """As of a server that starts now."""
        settings = SchedulerSettings(self._folder, finished_job_ttl=ttl)
        return Retention(
            self._store,
            self.journal,
            lambda job_id: self._folder / job_id,
            settings,
            lambda: self.wall,
            lambda: self.monotonic,
        )

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    async def end(self, order: int, retention: Retention) -> None:
        job = await self.journal.create(submitted(order, create_time=self.wall))
        await self.journal.enter(job.job_id, JobState.CANCELLED)
        (self._folder / job.job_id).mkdir(parents=True)
        retention.ended(job.job_id)

    async def swept(self, retention: Retention) -> list[str]:
        """The folders that a sweep leaves."""
        await retention.sweep()
        return sorted(path.name for path in self._folder.iterdir())


@pytest.fixture
async def aging(tmp_path: Path) -> AsyncIterator[Aging]:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    yield Aging(store, tmp_path / "jobs")
    await store.close()


async def test_jobs_end_with_their_time(aging: Aging) -> None:
    retention = aging.retention(100.0)
    for order in (1, 2, 3):
        await aging.end(order, retention)
        aging.passes(40.0)
    assert await aging.swept(retention) == ["job-2", "job-3"]  # They are 120, 80 and 40 s old.
    aging.passes(1000.0)
    assert await aging.swept(retention) == []


async def test_a_clock_that_is_put_forward_leaves_a_minute_to_see_how_a_job_ended(aging: Aging) -> None:
    retention = aging.retention(3600.0)
    aging.passes(1000.0)
    await aging.end(1, retention)
    aging.wall += 7200.0
    assert await aging.swept(retention) == ["job-1"]
    aging.passes(50.0)
    await aging.end(2, retention)
    aging.passes(20.0)
    assert await aging.swept(retention) == ["job-2"]


async def test_a_server_that_starts_with_a_wrong_clock_removes_nothing_at_once(aging: Aging) -> None:
    await aging.end(1, aging.retention(3600.0))
    aging.wall += 7200.0
    later = aging.retention(3600.0)
    assert await aging.swept(later) == ["job-1"]
    aging.passes(61.0)
    assert await aging.swept(later) == []


async def test_a_short_time_to_live_is_kept_to(aging: Aging) -> None:
    retention = aging.retention(5.0)
    aging.passes(5.0)
    await aging.end(1, retention)
    aging.passes(4.0)
    assert await aging.swept(retention) == ["job-1"]
    aging.passes(2.0)
    assert await aging.swept(retention) == []


async def test_a_job_stays_until_its_folder_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    settings = SchedulerSettings(tmp_path / "jobs", max_finished_jobs=0)
    retention = Retention(store, journal, lambda job_id: tmp_path / "jobs" / job_id, settings)
    for order in (1, 2, 3):
        job = await journal.create(submitted(order))
        await journal.enter(job.job_id, JobState.CANCELLED)
        (tmp_path / "jobs" / job.job_id).mkdir(parents=True)
    remove = shutil.rmtree

    def refuse_one(folder: Path) -> None:
        if folder.name == "job-2":
            raise PermissionError(13, "Permission denied", str(folder))
        remove(folder)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse_one)
        assert await retention.sweep() == 2
        assert await retention.sweep() == 0
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["job-2"]
    assert (await journal.job("job-2")).state is JobState.CANCELLED
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "job-2" in caplog.text
    assert await retention.sweep() == 1
    assert list((tmp_path / "jobs").iterdir()) == []
    with pytest.raises(JobNotFound):
        await journal.job("job-2")
    await store.close()


async def test_a_job_is_not_found_before_the_first_of_its_files_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    settings = SchedulerSettings(tmp_path / "jobs", max_finished_jobs=0)
    retention = Retention(store, journal, lambda job_id: tmp_path / "jobs" / job_id, settings)
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.CANCELLED)
    at_it, go_on = threading.Event(), threading.Event()

    def remove(_: Path) -> None:
        at_it.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(shutil, "rmtree", remove)
    sweep = asyncio.create_task(retention.sweep())
    await asyncio.to_thread(at_it.wait, PATIENCE)
    assert await store.get(job.job_id) is not None
    with pytest.raises(JobNotFound):
        await journal.log(job.job_id)
    go_on.set()
    assert await sweep == 1
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
