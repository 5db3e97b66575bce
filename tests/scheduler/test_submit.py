"""Taking jobs in: durable, idempotent, bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import (
    InvalidRequest,
    NotAccepting,
    QueueFull,
    RequestIdConflict,
    StoreUnavailable,
)
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import MergeSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import Journal, Scheduler, SchedulerSettings
from lmms_eval_grpc.store.base import JobFilter
from tests.jobs.examples import result, spec
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import FailingStore, ScriptedExecutor, until


async def kept(service: Service) -> int:
    return len(await service.store.page(JobFilter(), before_order=None, size=10_000, full=False))


async def test_an_accepted_job_is_durable_and_runs(service: Service) -> None:
    job = await service.submit(labels={"run": "a"}, priority=3)
    assert (job.state, job.attempt, job.labels, job.priority) == (JobState.QUEUED, 0, {"run": "a"}, 3)
    assert await service.store.get(job.job_id) is not None
    execution = await service.executor.execution(job.job_id)
    assert (execution.devices, execution.job_dir) == (("cpu",), service.scheduler.job_dir(job.job_id))
    assert execution.job_dir.is_dir()
    execution.complete()
    job = await service.reaches(job.job_id, JobState.COMPLETED)
    assert job.result == result()
    assert await service.store.get(job.job_id) == job
    assert await service.states(job.job_id) == [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED]
    assert (await service.scheduler.counts())[JobState.COMPLETED] == 1


async def test_the_same_request_again_is_the_same_job(service: Service) -> None:
    first = await service.submit(request_id="r", request_digest="d")
    await service.executor.execution(first.job_id)
    again = await service.submit(request_id="r", request_digest="d")
    assert again.job_id == first.job_id
    assert again.state is JobState.RUNNING
    (await service.executor.execution(first.job_id)).complete()
    await service.reaches(first.job_id, JobState.COMPLETED)
    assert (await service.submit(request_id="r", request_digest="d")).result == result()
    with pytest.raises(RequestIdConflict) as refused:
        await service.submit(request_id="r", request_digest="other")
    assert refused.value.job_id == first.job_id
    assert await kept(service) == 1


async def test_the_same_request_many_times_at_once_makes_one_job(service: Service) -> None:
    jobs = await asyncio.gather(*(service.submit(request_id="r", request_digest="d") for _ in range(30)))
    assert len({job.job_id for job in jobs}) == 1
    assert await kept(service) == 1
    assert len(service.scheduler.queue().queued) + len(service.scheduler.queue().running) == 1


async def test_requests_without_an_id_are_all_different(service: Service) -> None:
    jobs = [await service.submit() for _ in range(3)]
    assert len({job.job_id for job in jobs}) == 3


async def test_a_full_queue_refuses_and_says_when_to_come_back(new_service: NewService) -> None:
    service = await new_service(max_queued_jobs=3)
    running = await service.submit()
    await service.executor.execution(running.job_id)
    waiting = [await service.submit(request_id=f"r{number}", request_digest="d") for number in range(3)]
    with pytest.raises(QueueFull) as refused:
        await service.submit()
    assert refused.value.capacity == 3
    assert 1.0 <= refused.value.retry_after <= 60.0
    # Who was accepted before may ask again.
    assert (await service.submit(request_id="r1", request_digest="d")).job_id == waiting[1].job_id
    with pytest.raises(RequestIdConflict):
        await service.submit(request_id="r1", request_digest="other")
    await service.scheduler.cancel(waiting[0].job_id, "")
    assert (await service.submit()).state is JobState.QUEUED


async def test_a_burst_fills_the_queue_exactly(new_service: NewService) -> None:
    service = await new_service(max_queued_jobs=20)
    service.executor.hold = asyncio.Event()
    running = await service.submit()
    await service.reaches(running.job_id, JobState.RUNNING)
    outcomes = await asyncio.gather(*(service.submit() for _ in range(50)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
    assert len(refused) == 30
    assert len(service.scheduler.queue().queued) == 20
    service.executor.hold.set()


async def test_a_full_queue_says_when_to_try_again_also_while_the_cluster_has_no_devices(
    new_service: NewService,
) -> None:
    service = await new_service("a/cpu:0", max_queued_jobs=1)
    service.executor.elastic = True
    job = await service.submit()
    (await service.executor.execution(job.job_id)).complete()
    await service.reaches(job.job_id, JobState.COMPLETED)
    await until(lambda: not any(service.holders))
    service.executor.change_devices()
    await service.submit()
    with pytest.raises(QueueFull) as refused:
        await service.submit()
    assert refused.value.retry_after >= 1.0


async def test_what_no_device_fits_is_refused_at_once(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1")
    for device, num_gpus, field in (("cuda:7", 1, "spec.device"), ("", 3, "spec.num_gpus"), ("cpu", 1, "spec.device")):
        with pytest.raises(InvalidRequest) as refused:
            await service.submit(num_gpus, device)
        assert [violation.field for violation in refused.value.violations] == [field]
    assert await kept(service) == 0


async def test_a_merge_is_queued_like_an_evaluation(service: Service) -> None:
    job = await service.scheduler.submit(MergeSpec("checkpoint"))
    assert (await service.executor.execution(job.job_id)).job.spec == MergeSpec("checkpoint")


async def test_nothing_is_accepted_before_the_start(tmp_path: Path) -> None:
    store = FailingStore(tmp_path / "jobs.sqlite3")
    scheduler = Scheduler(store, ScriptedExecutor(), Journal(store), SchedulerSettings(tmp_path / "jobs"))
    assert not scheduler.accepting
    with pytest.raises(NotAccepting, match="starting") as refused:
        await scheduler.submit(spec())
    assert refused.value.retry_after > 0


async def test_what_the_store_refuses_is_not_queued(service: Service) -> None:
    service.store.broken = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await service.submit(request_id="r", request_digest="d")
    assert service.scheduler.queue().queued == ()
    service.store.broken = False
    job = await service.submit(request_id="r", request_digest="d")
    assert await service.executor.execution(job.job_id)


async def test_a_submitter_that_goes_away_leaves_a_job_that_runs(service: Service) -> None:
    service.store.gate = asyncio.Event()
    submission = asyncio.create_task(service.submit(request_id="r", request_digest="d"))
    await asyncio.sleep(0.01)
    submission.cancel()
    service.store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await submission
    await until(lambda: len(service.executor.executions) == 1)
    again = await service.submit(request_id="r", request_digest="d")
    assert again.job_id == service.executor.executions[0].job.job_id


async def test_the_submission_order_survives_restarts_and_removals(new_service: NewService) -> None:
    service = await new_service(max_finished_jobs=0)
    first = await service.submit()
    (await service.executor.execution(first.job_id)).complete()
    await service.reaches(first.job_id, JobState.COMPLETED)
    await service.stop()
    service = await new_service(max_finished_jobs=0)
    assert (await service.submit()).order > first.order


async def test_a_request_whose_job_is_removed_meanwhile_makes_a_new_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await service.submit(request_id="r", request_digest="d")
    (await service.executor.execution(first.job_id)).complete()
    await service.reaches(first.job_id, JobState.COMPLETED)
    find = service.store.find_request

    async def find_too_late(request_id: str) -> Job | None:
        with service.journal.withdraw([first.job_id]):
            await service.store.remove([first.job_id])
        return await find(request_id)

    monkeypatch.setattr(service.store, "find_request", find_too_late)
    second = await service.submit(request_id="r", request_digest="d")
    assert second.job_id != first.job_id
    assert await service.executor.execution(second.job_id)


async def test_a_request_whose_job_is_being_removed_gets_it_a_last_time(service: Service) -> None:
    first = await service.submit(request_id="r", request_digest="d")
    (await service.executor.execution(first.job_id)).complete()
    await service.reaches(first.job_id, JobState.COMPLETED)
    with service.journal.withdraw([first.job_id]):
        again = await service.submit(request_id="r", request_digest="d")
    assert (again.job_id, again.result) == (first.job_id, result())


async def test_a_refusal_holds_though_the_job_of_the_request_is_removed_meanwhile(
    service: Service,
) -> None:
    first = await service.submit(request_id="r", request_digest="d")
    (await service.executor.execution(first.job_id)).complete()
    await service.reaches(first.job_id, JobState.COMPLETED)
    await service.scheduler.drain()
    assert (await service.submit(request_id="r", request_digest="d")).job_id == first.job_id
    await service.store.remove([first.job_id])
    with pytest.raises(NotAccepting):
        await service.submit(request_id="r", request_digest="d")
