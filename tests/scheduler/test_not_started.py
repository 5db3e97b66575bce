"""Jobs for which no worker can be had, and executions that break: who waits for what, and who holds the devices."""

from __future__ import annotations

import asyncio
import errno

import pytest

from lmms_eval_grpc.jobs.codec import decode, encode
from lmms_eval_grpc.jobs.events import NotStarted, StateChange, Stopped, WorkerReport
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import run
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import until

OUTAGE = NotStarted("no worker could be started: the machine is out of memory")


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "NOT_STARTED_REST", 0.0)


@pytest.mark.usefixtures("no_rest")
async def test_a_job_that_got_no_worker_waits_again_at_its_old_place_and_says_why(service: Service) -> None:
    jobs = [await service.submit() for _ in range(3)]
    for attempt in range(1, 6):
        (await service.executor.execution(jobs[0].job_id, attempt)).tell(OUTAGE)
    (await service.executor.execution(jobs[0].job_id, attempt=6)).complete()
    first = await service.reaches(jobs[0].job_id, JobState.COMPLETED)
    (await service.executor.execution(jobs[1].job_id)).complete()
    await service.reaches(jobs[1].job_id, JobState.COMPLETED)
    await service.executor.execution(jobs[2].job_id)
    assert service.executor.order == [1] * 6 + [2, 3]
    events = [event.body for event in (await service.journal.log(first.job_id)).after(0)]
    back = [body for body in events if isinstance(body, StateChange) and body.previous is JobState.RUNNING][:-1]
    assert [(body.state, body.reason, body.error) for body in back] == [(JobState.QUEUED, OUTAGE.reason, None)] * 5


@pytest.mark.usefixtures("no_rest")
async def test_a_job_that_is_back_in_the_queue_does_not_hold_a_device_twice(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1")
    job = await service.submit()
    for attempt in range(1, 20):
        (await service.executor.execution(job.job_id, attempt)).tell(OUTAGE)
    await service.executor.execution(job.job_id, attempt=20)
    holders = {slot.job_id for slot in service.scheduler.queue().slots}
    assert holders == {None, job.job_id}, "a device that is in use counts as such"
    others = [await service.submit(), await service.submit()]
    await service.executor.execution(others[0].job_id)
    assert service.scheduler.position(others[1].job_id) == 0


async def test_a_machine_in_trouble_is_not_asked_all_the_time(service: Service) -> None:
    job = await service.submit()
    (await service.executor.execution(job.job_id)).tell(OUTAGE)
    await asyncio.sleep(0.5)
    assert (await service.journal.job(job.job_id)).state is JobState.RUNNING
    assert len(service.executor.executions) == 1


async def test_a_job_that_rests_is_cancelled_at_once(service: Service) -> None:
    job = await service.submit()
    (await service.executor.execution(job.job_id)).tell(OUTAGE)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(run.NOT_STARTED_REST / 2):
        await service.scheduler.cancel(job.job_id, "changed my mind")
        await service.reaches(job.job_id, JobState.CANCELLED)


async def test_a_server_stops_at_once_while_a_job_rests(new_service: NewService) -> None:
    service = await new_service()
    job = await service.submit()
    (await service.executor.execution(job.job_id)).tell(OUTAGE)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(run.NOT_STARTED_REST / 2):
        await service.scheduler.stop()
    assert (await service.journal.job(job.job_id)).state is JobState.QUEUED


@pytest.mark.usefixtures("no_rest")
@pytest.mark.parametrize(
    "shortage",
    [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread"), MemoryError()],
    ids=["descriptors", "threads", "memory"],
)
async def test_a_machine_that_has_run_out_of_something_fails_no_job(service: Service, shortage: Exception) -> None:
    service.executor.refusal = shortage
    jobs = [await service.submit() for _ in range(5)]
    log = await service.journal.log(jobs[0].job_id)
    await until(lambda: log.job.attempt >= 3)
    service.executor.refusal = None
    for job in jobs:
        await until(lambda: bool(service.executor.executions))
        await until(lambda job=job: service.executor.executions[-1].job.job_id == job.job_id)  # type: ignore[misc]
        service.executor.executions[-1].complete()
        await service.reaches(job.job_id, JobState.COMPLETED)


async def test_a_broken_execution_holds_its_devices_until_its_worker_has_ended(service: Service) -> None:
    service.executor.obedient = False
    job, following = await service.submit(), await service.submit()
    execution = await service.executor.execution(job.job_id)
    execution.break_with(ValueError("a bug"))
    await until(lambda: bool(execution.cancellations))
    await asyncio.sleep(0.2)
    assert service.scheduler.queue().slots[0].job_id == job.job_id
    assert len(service.executor.executions) == 1
    execution.tell(Stopped())
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.reason) == (JobErrorCode.INTERNAL, "EXECUTOR_FAILED")
    assert await service.executor.execution(following.job_id)


def test_such_a_report_survives_its_encoding() -> None:
    assert decode(WorkerReport, encode(OUTAGE)) == OUTAGE
