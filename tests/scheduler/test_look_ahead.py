"""What an executor that looks ahead is told of the jobs that come next."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from lmms_eval_grpc.executors.base import ExpectedJob, LooksAhead
from lmms_eval_grpc.jobs.state import JobState
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import ScriptedExecutor, until


class Expectations:
    """What an executor was told last, and of which jobs at once it was ever told to let go."""

    def __init__(self) -> None:
        self.upcoming: list[ExpectedJob] = []
        self.begun: set[str] = set()
        self.kept: list[set[str]] = []

    def expect(self, upcoming: Sequence[ExpectedJob], begun: Collection[str]) -> None:
        self.upcoming = list(upcoming)
        self.begun = set(begun)
        self.kept.append({one.job.job_id for one in upcoming} | self.begun)

    @property
    def ids(self) -> list[str]:
        return [one.job.job_id for one in self.upcoming]


def look_ahead(service: Service) -> Expectations:
    """Makes the service's executor one that looks ahead."""
    expectations = Expectations()
    service.executor.expect = expectations.expect  # type: ignore[attr-defined]
    assert isinstance(service.executor, LooksAhead)
    return expectations


@pytest.fixture
async def service(new_service: NewService) -> Service:
    return await new_service("cuda:0", "cuda:1")


async def test_one_job_per_device_is_expected_in_the_order_of_the_queue(service: Service) -> None:
    told = look_ahead(service)
    running = [await service.submit() for _ in range(2)]
    waiting = [await service.submit() for _ in range(3)]
    await until(lambda: told.ids == [job.job_id for job in waiting[:2]])
    assert told.begun == {job.job_id for job in running}
    assert [one.devices[0].name for one in told.upcoming] == ["cuda:0", "cuda:1"]
    assert told.upcoming[0].job_dir == service.scheduler.job_dir(waiting[0].job_id)
    (await service.executor.execution(running[0].job_id)).complete()
    await until(lambda: told.ids == [job.job_id for job in waiting[1:]])


async def test_a_job_is_never_let_go_of_between_waiting_and_its_execution(service: Service) -> None:
    told = look_ahead(service)
    running = [await service.submit() for _ in range(2)]
    waiting = await service.submit()
    await until(lambda: told.ids == [waiting.job_id])
    first = len(told.kept)
    (await service.executor.execution(running[0].job_id)).complete()
    await service.executor.execution(waiting.job_id)
    await until(lambda: told.ids == [])
    assert all(waiting.job_id in kept for kept in told.kept[first:])


async def test_a_wide_job_is_expected_alone(service: Service) -> None:
    told = look_ahead(service)
    for _ in range(2):
        await service.submit()
    wide = await service.submit(num_gpus=2)
    await service.submit()
    await until(lambda: told.ids == [wide.job_id])
    assert [device.name for device in told.upcoming[0].devices] == ["cuda:0", "cuda:1"]


async def test_a_more_urgent_job_takes_the_place_of_the_expected_one(new_service: NewService) -> None:
    service = await new_service()
    told = look_ahead(service)
    await service.submit()
    patient = await service.submit()
    await until(lambda: told.ids == [patient.job_id])
    urgent = await service.submit(priority=5)
    await until(lambda: told.ids == [urgent.job_id])


async def test_a_cancelled_job_is_expected_no_more(new_service: NewService) -> None:
    service = await new_service()
    told = look_ahead(service)
    await service.submit()
    waiting = [await service.submit() for _ in range(2)]
    await until(lambda: told.ids == [waiting[0].job_id])
    await service.scheduler.cancel(waiting[0].job_id, "")
    await until(lambda: told.ids == [waiting[1].job_id])


async def test_jobs_behind_all_that_come_next_are_no_news_until_they_come_next(service: Service) -> None:
    told = look_ahead(service)
    running = [await service.submit() for _ in range(2)]
    waiting = [await service.submit() for _ in range(2)]
    await until(lambda: told.ids == [job.job_id for job in waiting])
    times_told = len(told.kept)
    waiting += [await service.submit() for _ in range(8)]
    await asyncio.sleep(0)
    assert len(told.kept) == times_told
    urgent = await service.submit(priority=1)
    await until(lambda: told.ids == [urgent.job_id, waiting[0].job_id])
    await service.scheduler.set_priority(urgent.job_id, -1)
    await until(lambda: told.ids == [job.job_id for job in waiting[:2]])
    for job in waiting[:9]:
        await service.scheduler.cancel(job.job_id, "")
    await until(lambda: told.ids == [waiting[9].job_id, urgent.job_id])
    late = await service.submit()
    await until(lambda: told.ids == [waiting[9].job_id, late.job_id])
    for job in (*running, waiting[9], late, urgent):
        (await service.executor.execution(job.job_id)).complete()
        await service.reaches(job.job_id, JobState.COMPLETED)


async def test_a_server_that_stops_expects_nothing(new_service: NewService) -> None:
    service = await new_service()
    told = look_ahead(service)
    await service.submit()
    waiting = await service.submit()
    await until(lambda: told.ids == [waiting.job_id])
    await service.scheduler.drain()
    assert told.ids == []


async def test_an_executor_that_fails_at_it_still_gets_its_jobs(service: Service) -> None:
    def expect(upcoming: Sequence[ExpectedJob], begun: Collection[str]) -> None:
        raise OSError("nothing works")

    service.executor.expect = expect  # type: ignore[attr-defined]
    for _ in range(2):
        job = await service.submit()
        (await service.executor.execution(job.job_id)).complete()
        await service.reaches(job.job_id, JobState.COMPLETED)


async def test_an_executor_need_not_look_ahead(new_service: NewService) -> None:
    service = await new_service()
    assert not isinstance(ScriptedExecutor(), LooksAhead)
    jobs = [await service.submit() for _ in range(2)]
    for job in jobs:
        (await service.executor.execution(job.job_id)).complete()
        await service.reaches(job.job_id, JobState.COMPLETED)
