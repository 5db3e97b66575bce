"""A queue that is paused starts nothing, and says so, also after a restart."""

from __future__ import annotations

import asyncio

import pytest

from lmms_eval_grpc.jobs.errors import NotAccepting, QueuePaused, StoreUnavailable
from lmms_eval_grpc.jobs.state import JobState
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import PATIENCE, until


async def settled(service: Service) -> None:
    """Returns when the dispatcher has looked at the queue as it now is."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_paused_queue_takes_jobs_in_and_starts_none_until_it_is_resumed(service: Service) -> None:
    running = await service.submit()
    execution = await service.executor.execution(running.job_id)
    await service.scheduler.pause("the GPUs are wanted")
    waiting = await service.submit()
    execution.complete()
    await service.reaches(running.job_id, JobState.COMPLETED)
    await settled(service)
    view = service.scheduler.queue()
    assert (view.queued, view.running, view.pause_reason) == ((waiting.job_id,), (), "the GPUs are wanted")
    assert view.accepting
    await service.scheduler.resume()
    await service.executor.execution(waiting.job_id)
    assert service.scheduler.queue().pause_reason is None


async def test_a_pause_survives_a_restart_and_so_does_a_resumption(new_service: NewService) -> None:
    service = await new_service()
    await service.scheduler.pause("über Nacht")
    job = await service.submit()
    await service.stop()
    service = await new_service()
    assert service.scheduler.queue().pause_reason == "über Nacht"
    await settled(service)
    assert service.executor.executions == []
    await service.scheduler.resume()
    await service.executor.execution(job.job_id)
    await service.stop()
    service = await new_service()
    assert service.scheduler.queue().pause_reason is None
    await service.executor.execution(job.job_id, attempt=2)


async def test_a_pause_without_a_reason_is_a_pause(new_service: NewService) -> None:
    service = await new_service()
    await service.scheduler.pause("")
    await service.stop()
    service = await new_service()
    assert service.scheduler.queue().pause_reason == ""


async def test_when_a_pause_is_acknowledged_no_start_is_under_way(service: Service) -> None:
    service.store.gate = asyncio.Event()
    submitting = asyncio.create_task(service.submit())
    pausing = None
    try:
        service.store.gate.set()
        job = await submitting
        service.store.gate.clear()
        await until(lambda: any(service.holders))  # its start is being recorded
        pausing = asyncio.create_task(service.scheduler.pause("now"))
        await settled(service)
        assert not pausing.done()
    finally:
        service.store.gate.set()
    await pausing
    # The start that was under way is over, not merely on its way.
    assert service.scheduler.queue().running == (job.job_id,)


async def test_a_job_whose_start_is_being_recorded_waits_and_holds_nothing(service: Service) -> None:
    await service.scheduler.pause("now")
    job = await service.submit()
    service.store.gate = asyncio.Event()
    await service.scheduler.resume()
    await until(lambda: any(service.holders))
    view = service.scheduler.queue()
    service.store.gate.set()
    assert (view.queued, view.running, [slot.job_id for slot in view.slots]) == ((job.job_id,), (), [None])
    change = None
    while change is None:
        assert await service.scheduler.queue_changes.wait_beyond(view.revision, PATIENCE)
        changes = service.scheduler.queue_changes.after(view.revision)
        assert changes is not None
        (change,) = changes
    assert change.state is JobState.RUNNING
    view = service.scheduler.queue()
    assert (view.queued, view.running, [slot.job_id for slot in view.slots]) == ((), (job.job_id,), [job.job_id])


async def test_a_job_is_in_one_place_of_every_view(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1")
    seen = []

    async def look() -> None:
        while True:
            view = service.scheduler.queue()
            seen.append(view)
            assert not {*view.queued} & {*view.running}
            assert {slot.job_id for slot in view.slots} - {None} == {*view.running}
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    jobs = [await service.submit() for _ in range(10)]
    for job in jobs:
        (await service.executor.execution(job.job_id)).complete()
        await service.reaches(job.job_id, JobState.COMPLETED)
    await until(lambda: not any(service.holders))
    assert not looking.done()
    looking.cancel()
    assert any(view.running for view in seen)


async def test_a_pause_that_cannot_be_recorded_changes_nothing(service: Service) -> None:
    service.settings.pause_file.mkdir()
    revision = service.scheduler.queue_changes.revision
    with pytest.raises(StoreUnavailable, match="paused cannot be written"):
        await service.scheduler.pause("why")
    assert service.scheduler.queue().pause_reason is None
    assert service.scheduler.queue_changes.revision == revision
    job = await service.submit()
    await service.executor.execution(job.job_id)


async def test_followers_of_the_queue_take_a_new_snapshot(service: Service) -> None:
    feed = service.scheduler.queue_changes
    before = feed.revision
    following = asyncio.create_task(feed.wait_beyond(before, PATIENCE))
    await service.scheduler.pause("why")
    assert await following
    assert feed.after(before) is None
    paused = feed.revision
    await service.scheduler.pause("why")
    assert feed.revision == paused  # nothing new to tell
    await service.scheduler.pause("another reason")
    await service.scheduler.resume()
    assert feed.revision == paused + 2


async def test_what_changed_before_a_pause_is_told_as_changes_first(service: Service) -> None:
    feed = service.scheduler.queue_changes
    job = await service.submit()
    await service.reaches(job.job_id, JobState.RUNNING)
    await service.scheduler.pause("why")
    told = feed.after(0)
    assert told is not None
    assert [change.state for change in told] == [JobState.QUEUED, JobState.RUNNING]
    assert feed.after(told[-1].revision) is None


async def test_a_drain_runs_the_queue_out_if_it_is_asked_to(service: Service) -> None:
    first, second = await service.submit(), await service.submit()
    await service.scheduler.drain(finish_queued=True)
    assert service.scheduler.queue().draining
    with pytest.raises(NotAccepting):
        await service.submit()
    for job in (first, second):
        assert service.scheduler.busy
        (await service.executor.execution(job.job_id)).complete()
        await service.reaches(job.job_id, JobState.COMPLETED)
    assert not service.scheduler.busy


async def test_a_drain_can_become_stricter_and_not_laxer(service: Service) -> None:
    first, second = await service.submit(), await service.submit()
    execution = await service.executor.execution(first.job_id)
    await service.scheduler.drain(finish_queued=True)
    await service.scheduler.drain()
    await service.scheduler.drain(finish_queued=True)
    execution.complete()
    await service.reaches(first.job_id, JobState.COMPLETED)
    await settled(service)
    assert not service.scheduler.busy
    assert service.scheduler.queue().queued == (second.job_id,)


async def test_the_jobs_of_a_paused_queue_cannot_be_finished(service: Service) -> None:
    await service.scheduler.pause("the GPUs are wanted")
    await service.submit()
    with pytest.raises(QueuePaused, match=r"the GPUs are wanted.*resume it first"):
        await service.scheduler.drain(finish_queued=True)
    assert service.scheduler.accepting
    await service.scheduler.drain()
    assert not service.scheduler.busy
