"""A job that waits can be given another place."""

from __future__ import annotations

import asyncio

import pytest

from lmms_eval_grpc.jobs.errors import JobNotFound, NotQueued, StoreUnavailable
from lmms_eval_grpc.jobs.state import JobState
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import until


async def test_a_higher_priority_moves_a_job_ahead_and_a_lower_one_back(service: Service) -> None:
    running = await service.submit()
    execution = await service.executor.execution(running.job_id)
    jobs = [(await service.submit()).job_id for _ in range(3)]
    moved = await service.scheduler.set_priority(jobs[2], 5)
    assert (moved.job_id, moved.priority, moved.state) == (jobs[2], 5, JobState.QUEUED)
    assert service.scheduler.queue().queued == (jobs[2], jobs[0], jobs[1])
    assert service.scheduler.position(jobs[2]) == 0
    await service.scheduler.set_priority(jobs[0], -1)
    assert service.scheduler.queue().queued == (jobs[2], jobs[1], jobs[0])
    await service.scheduler.set_priority(jobs[2], 0)
    assert service.scheduler.queue().queued == (jobs[1], jobs[2], jobs[0])
    execution.complete()
    for job_id in (jobs[1], jobs[2], jobs[0]):
        (await service.executor.execution(job_id)).complete()
    await service.reaches(jobs[0], JobState.COMPLETED)
    assert service.executor.order == [1, 3, 4, 2]


async def test_it_is_durable_and_leaves_the_log_alone(new_service: NewService) -> None:
    service = await new_service()
    await service.scheduler.pause("")
    first, second = await service.submit(), await service.submit()
    log = await service.journal.log(second.job_id)
    events = log.after(0)
    await service.scheduler.set_priority(second.job_id, 7)
    assert log.after(0) == events
    assert log.job.priority == 7
    await service.stop()
    service = await new_service()
    assert (await service.journal.job(second.job_id)).priority == 7
    assert service.scheduler.queue().queued == (second.job_id, first.job_id)
    await service.scheduler.resume()
    running = await service.reaches(second.job_id, JobState.RUNNING)
    assert (running.priority, running.sequence) == (7, second.sequence + 1)


async def test_followers_of_the_queue_are_told(service: Service) -> None:
    await service.scheduler.pause("")
    job = await service.submit()
    feed = service.scheduler.queue_changes
    before = feed.revision
    await service.scheduler.set_priority(job.job_id, 1)
    assert feed.after(before) is None
    assert feed.revision == before + 1


async def test_a_job_that_does_not_wait_any_more_has_no_place_to_change(service: Service) -> None:
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    with pytest.raises(NotQueued, match="it is running"):
        await service.scheduler.set_priority(job.job_id, 1)
    execution.complete()
    await service.reaches(job.job_id, JobState.COMPLETED)
    with pytest.raises(NotQueued, match="it is completed"):
        await service.scheduler.set_priority(job.job_id, 1)
    assert (await service.journal.job(job.job_id)).priority == 0
    with pytest.raises(JobNotFound):
        await service.scheduler.set_priority("nothing", 1)


async def test_a_change_that_cannot_be_recorded_is_none(service: Service) -> None:
    await service.scheduler.pause("")
    first, second = await service.submit(), await service.submit()
    service.store.broken = True
    with pytest.raises(StoreUnavailable):
        await service.scheduler.set_priority(second.job_id, 1)
    assert service.scheduler.queue().queued == (first.job_id, second.job_id)
    assert (await service.journal.job(second.job_id)).priority == 0


async def test_a_job_that_starts_meanwhile_is_either_moved_before_or_refused(service: Service) -> None:
    await service.scheduler.pause("")
    job = await service.submit()
    service.store.gate = asyncio.Event()
    changing = asyncio.create_task(service.scheduler.set_priority(job.job_id, 3))
    await asyncio.sleep(0)
    resuming = asyncio.create_task(service.scheduler.resume())
    await resuming
    await until(lambda: any(service.holders))
    service.store.gate.set()
    assert (await changing).priority == 3
    running = await service.reaches(job.job_id, JobState.RUNNING)
    assert running.priority == 3
    assert service.scheduler.queue().queued == ()
    (await service.executor.execution(job.job_id)).complete()
    assert (await service.reaches(job.job_id, JobState.COMPLETED)).priority == 3
