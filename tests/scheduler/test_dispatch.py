"""What runs when, and where."""

from __future__ import annotations

import asyncio

import pytest

from lmms_eval_grpc.jobs.events import JobEvent
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.state import JobState
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import until


async def test_one_device_takes_one_job_at_a_time_in_order(service: Service) -> None:
    jobs = [await service.submit() for _ in range(5)]
    for number, job in enumerate(jobs):
        execution = await service.executor.execution(job.job_id)
        assert len(service.executor.executions) == number + 1
        assert [service.scheduler.position(each.job_id) for each in jobs[number:]] == [
            None,
            *range(len(jobs) - number - 1),
        ]
        execution.complete()
    await service.reaches(jobs[-1].job_id, JobState.COMPLETED)
    assert service.executor.order == [job.order for job in jobs]
    assert service.scheduler.jobs_started == 5


async def test_a_higher_priority_goes_first_but_does_not_interrupt(service: Service) -> None:
    running = await service.submit()
    execution = await service.executor.execution(running.job_id)
    ordinary = await service.submit()
    urgent = await service.submit(priority=10)
    unimportant = await service.submit(priority=-10)
    assert service.scheduler.queue().queued == (urgent.job_id, ordinary.job_id, unimportant.job_id)
    execution.complete()
    for job in (urgent, ordinary, unimportant):
        (await service.executor.execution(job.job_id)).complete()
    await service.reaches(unimportant.job_id, JobState.COMPLETED)
    assert service.executor.order == [job.order for job in (running, urgent, ordinary, unimportant)]


async def test_each_device_runs_a_job_of_its_own(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1", "cuda:2")
    jobs = [await service.submit() for _ in range(5)]
    await until(lambda: len(service.executor.executions) == 3)
    # They start side by side: whose worker is there first is not told, who gets which device is.
    for job, device in zip(jobs, ("cuda:0", "cuda:1", "cuda:2"), strict=False):
        assert (await service.executor.execution(job.job_id)).devices == (device,)
    view = service.scheduler.queue()
    assert [slot.job_id for slot in view.slots] == [job.job_id for job in jobs[:3]]
    assert view.running == tuple(job.job_id for job in jobs[:3])
    assert view.queued == tuple(job.job_id for job in jobs[3:])
    (await service.executor.execution(jobs[1].job_id)).complete()
    assert (await service.executor.execution(jobs[3].job_id)).devices == ("cuda:1",)
    job = await service.reaches(jobs[3].job_id, JobState.RUNNING)
    assert job.devices == ("cuda:1",)


async def test_a_wide_job_is_not_starved_by_narrow_ones(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    narrow = [await service.submit() for _ in range(4)]
    for job in narrow:
        await service.executor.execution(job.job_id)
    wide = await service.submit(num_gpus=4)
    behind = [await service.submit() for _ in range(4)]
    for job in narrow:
        assert set(service.executor.order) == {each.order for each in narrow}
        (await service.executor.execution(job.job_id)).complete()
    execution = await service.executor.execution(wide.job_id)
    assert execution.devices == ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    assert len(service.executor.executions) == 5
    execution.complete()
    await until(lambda: len(service.executor.executions) == 9)
    assert set(service.executor.order[5:]) == {job.order for job in behind}


async def test_a_job_for_a_busy_device_lets_others_use_the_idle_ones(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1")
    first = await service.submit(device="cuda:1")
    assert (await service.executor.execution(first.job_id)).devices == ("cuda:1",)
    picky = await service.submit(device="cuda:1")
    easy = await service.submit()
    assert (await service.executor.execution(easy.job_id)).devices == ("cuda:0",)
    assert service.scheduler.position(picky.job_id) == 0
    (await service.executor.execution(first.job_id)).complete()
    assert (await service.executor.execution(picky.job_id)).devices == ("cuda:1",)


async def test_a_job_is_durably_running_before_its_worker_starts(service: Service) -> None:
    service.store.gate = gate = asyncio.Event()
    submission = asyncio.create_task(service.submit())
    await asyncio.sleep(0.01)
    service.store.gate = None
    gate.set()
    # Only the insertion was let through; now hold the change to RUNNING back.
    service.store.gate = asyncio.Event()
    job = await submission
    await asyncio.sleep(0.05)
    assert service.executor.executions == []
    stored = await service.store.get(job.job_id)
    assert stored is not None
    assert stored.state is JobState.QUEUED
    assert service.scheduler.position(job.job_id) == 0
    service.store.gate.set()
    execution = await service.executor.execution(job.job_id)
    stored = await service.store.get(job.job_id)
    assert stored is not None
    assert (stored.state, stored.attempt, stored.devices) == (JobState.RUNNING, 1, ("cpu",))
    assert execution.job == stored


async def test_a_start_that_cannot_be_recorded_is_tried_again(service: Service) -> None:
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    waiting = await service.submit()
    service.store.broken = True
    execution.complete()
    await until(lambda: service.store.refused >= 2)
    assert len(service.executor.executions) == 1
    service.store.broken = False
    await service.reaches(job.job_id, JobState.COMPLETED)
    assert await service.executor.execution(waiting.job_id)


async def test_one_start_that_cannot_be_recorded_leaves_the_job_in_its_place(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1")
    await service.submit()
    await until(lambda: len(service.executor.executions) == 1)
    service.store.gate = asyncio.Event()
    submission = asyncio.create_task(service.submit())
    await asyncio.sleep(0.01)
    gate, service.store.gate = service.store.gate, asyncio.Event()
    gate.set()
    job = await submission
    service.store.broken = True
    service.store.gate.set()
    await until(lambda: service.store.refused >= 1)
    assert service.scheduler.position(job.job_id) == 0
    assert service.holders[1] is None
    service.store.broken = False
    assert (await service.executor.execution(job.job_id)).devices == ("cuda:1",)


async def test_followers_of_the_queue_hear_of_every_move(service: Service) -> None:
    feed = service.scheduler.queue_changes
    revision = service.scheduler.queue().revision
    job = await service.submit()
    (await service.executor.execution(job.job_id)).complete()
    await service.reaches(job.job_id, JobState.COMPLETED)
    changes = feed.after(revision)
    assert changes is not None
    assert [(change.job_id, change.previous, change.state) for change in changes] == [
        (job.job_id, None, JobState.QUEUED),
        (job.job_id, JobState.QUEUED, JobState.RUNNING),
        (job.job_id, JobState.RUNNING, JobState.COMPLETED),
    ]
    assert [change.revision for change in changes] == [revision + 1, revision + 2, revision + 3]
    view = service.scheduler.queue()
    assert (view.revision, view.running, view.queued) == (revision + 3, (), ())


async def test_a_job_that_cannot_be_started_fails_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await service.executor.execution((await service.submit()).job_id)
    cursed, following = await service.submit(), await service.submit()
    append = service.store.append

    async def refuse(job: Job, event: JobEvent) -> None:
        if job.job_id == cursed.job_id and job.state is JobState.RUNNING:
            raise RuntimeError("something nobody thought of")
        await append(job, event)

    monkeypatch.setattr(service.store, "append", refuse)
    first.complete()
    job = await service.reaches(cursed.job_id, JobState.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.reason) == (JobErrorCode.INTERNAL, "SCHEDULER_FAILED")
    assert "something nobody thought of" in job.error.message
    (await service.executor.execution(following.job_id)).complete()
    await service.reaches(following.job_id, JobState.COMPLETED)


async def test_a_job_of_which_nothing_can_be_recorded_is_in_nobodys_way(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await service.executor.execution((await service.submit()).job_id)
    cursed, following = await service.submit(), await service.submit()
    append = service.store.append

    async def refuse(job: Job, event: JobEvent) -> None:
        if job.job_id == cursed.job_id:
            raise RuntimeError("something nobody thought of")
        await append(job, event)

    monkeypatch.setattr(service.store, "append", refuse)
    first.complete()
    (await service.executor.execution(following.job_id)).complete()
    await service.reaches(following.job_id, JobState.COMPLETED)
    assert service.scheduler.queue().queued == ()
    assert (await service.journal.job(cursed.job_id)).state is JobState.QUEUED
