"""Cancelling a job in each of its states."""

from __future__ import annotations

import asyncio

import pytest

from lmms_eval_grpc.jobs.errors import JobNotFound, StoreUnavailable
from lmms_eval_grpc.jobs.state import JobState
from tests.jobs.examples import result, task_result
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import until


async def test_a_waiting_job_is_cancelled_at_once(service: Service) -> None:
    running, waiting, last = [await service.submit() for _ in range(3)]
    execution = await service.executor.execution(running.job_id)
    job = await service.scheduler.cancel(waiting.job_id, "a newer checkpoint exists")
    assert (job.state, job.cancel_reason, job.attempt) == (JobState.CANCELLED, "a newer checkpoint exists", 0)
    assert service.scheduler.queue().queued == (last.job_id,)
    execution.complete()
    await service.executor.execution(last.job_id)
    assert service.executor.order == [running.order, last.order]


async def test_a_running_job_is_cancelled_when_its_worker_is_gone(service: Service) -> None:
    service.executor.obedient = False
    job, following = await service.submit(), await service.submit()
    execution = await service.executor.execution(job.job_id)
    execution.tell(task_result())
    cancelling = await service.scheduler.cancel(job.job_id, "too slow")
    assert (cancelling.state, cancelling.cancel_reason) == (JobState.CANCELLING, "too slow")
    await until(lambda: execution.cancellations == ["too slow"])
    assert service.scheduler.queue().running == (job.job_id,)
    assert service.scheduler.queue().slots[0].job_id == job.job_id
    assert len(service.executor.executions) == 1
    execution.fail()  # It did not stop by itself, so it was killed.
    cancelled = await service.reaches(job.job_id, JobState.CANCELLED)
    assert (cancelled.cancel_reason, cancelled.error) == ("too slow", None)
    assert cancelled.task_results == (task_result(),)
    assert await service.states(job.job_id) == [
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.CANCELLING,
        JobState.CANCELLED,
    ]
    assert await service.executor.execution(following.job_id)


async def test_a_job_that_completes_before_its_worker_hears_of_it_is_complete(service: Service) -> None:
    service.executor.obedient = False
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    await service.scheduler.cancel(job.job_id, "")
    execution.complete()
    assert (await service.reaches(job.job_id, JobState.COMPLETED)).result == result()


async def test_cancelling_again_changes_nothing(service: Service) -> None:
    service.executor.obedient = False
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    outcomes = await asyncio.gather(*(service.scheduler.cancel(job.job_id, f"reason {n}") for n in range(5)))
    assert {outcome.state for outcome in outcomes} == {JobState.CANCELLING}
    again = await service.scheduler.cancel(job.job_id, "another reason")
    assert again.cancel_reason == "reason 0"
    assert len(execution.cancellations) == 1
    execution.fail()
    ended = await service.reaches(job.job_id, JobState.CANCELLED)
    assert await service.scheduler.cancel(job.job_id, "") == ended


async def test_an_ended_job_stays_as_it_is(service: Service) -> None:
    job = await service.submit()
    (await service.executor.execution(job.job_id)).complete()
    ended = await service.reaches(job.job_id, JobState.COMPLETED)
    assert await service.scheduler.cancel(job.job_id, "too late") == ended


async def test_an_unknown_job_cannot_be_cancelled(service: Service) -> None:
    with pytest.raises(JobNotFound):
        await service.scheduler.cancel("nobody", "")


async def test_a_job_whose_worker_is_being_made_is_stopped_as_soon_as_it_is_there(service: Service) -> None:
    service.executor.hold = asyncio.Event()
    job = await service.submit()
    await service.reaches(job.job_id, JobState.RUNNING)
    assert (await service.scheduler.cancel(job.job_id, "changed my mind")).state is JobState.CANCELLING
    service.executor.hold.set()
    await service.reaches(job.job_id, JobState.CANCELLED)
    assert all(execution.cancellations == ["changed my mind"] for execution in service.executor.executions)


async def test_a_cancellation_that_meets_the_start_is_not_lost(new_service: NewService) -> None:
    service = await new_service("cuda:0")
    for pause in (0.0, 0.0005, 0.001, 0.002, 0.004):
        for _ in range(5):
            job = await service.submit()
            await asyncio.sleep(pause)
            await service.scheduler.cancel(job.job_id, "")
            await service.reaches(job.job_id, JobState.CANCELLED)
    await until(lambda: service.holders == [None])
    last = await service.submit()
    assert await service.executor.execution(last.job_id)


async def test_a_cancellation_that_cannot_be_recorded_did_not_happen(service: Service) -> None:
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    service.store.broken = True
    with pytest.raises(StoreUnavailable):
        await service.scheduler.cancel(job.job_id, "")
    assert execution.cancellations == []
    service.store.broken = False
    execution.complete()
    await service.reaches(job.job_id, JobState.COMPLETED)


async def test_a_caller_that_goes_away_has_cancelled_all_the_same(service: Service) -> None:
    job = await service.submit()
    await service.executor.execution(job.job_id)
    service.store.gate = asyncio.Event()
    caller = asyncio.create_task(service.scheduler.cancel(job.job_id, ""))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    service.store.gate.set()
    await service.reaches(job.job_id, JobState.CANCELLED)
