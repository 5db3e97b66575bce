"""Attempts that fail and are followed by another, and what that must not do to the others."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from lmms_eval_grpc.jobs.events import Completed, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.spec import RetryPolicy
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import retry
from tests.jobs.examples import result
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import KILLED, until

NO_REST = pytest.mark.usefixtures("no_rest")


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_eval_grpc.scheduler.retry._FIRST_REST", 0.0)


async def changes(service: Service, job: Job) -> list[StateChange]:
    log = await service.journal.log(job.job_id)
    return [event.body for event in log.after(0) if isinstance(event.body, StateChange)]


@NO_REST
async def test_a_failed_attempt_is_followed_by_another_that_may_complete(service: Service) -> None:
    job = await service.submit(retry_policy=RetryPolicy())
    (await service.executor.execution(job.job_id)).fail()
    second = await service.executor.execution(job.job_id, attempt=2)
    assert (await service.journal.job(job.job_id)).error is None
    second.complete()
    job = await service.reaches(job.job_id, JobState.COMPLETED)
    assert (job.attempt, job.failures, job.error) == (2, 1, None)
    told = await changes(service, job)
    assert [(change.state, change.attempt, change.error) for change in told] == [
        (JobState.QUEUED, 0, None),
        (JobState.RUNNING, 1, None),
        (JobState.QUEUED, 1, KILLED),
        (JobState.RUNNING, 2, None),
        (JobState.COMPLETED, 2, None),
    ]
    assert told[2].reason == "attempt 1 failed (WORKER_KILLED); failure 1 of at most 3"


@NO_REST
async def test_the_last_failure_is_the_jobs(service: Service) -> None:
    job = await service.submit(retry_policy=RetryPolicy(max_attempts=2))
    for attempt in (1, 2):
        (await service.executor.execution(job.job_id, attempt)).fail()
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert (job.attempt, job.error) == (2, KILLED)


async def test_without_a_policy_the_first_failure_is_the_end(service: Service) -> None:
    job = await service.submit()
    (await service.executor.execution(job.job_id)).fail()
    assert (await service.reaches(job.job_id, JobState.FAILED)).attempt == 1


async def test_failures_that_the_policy_does_not_name_are_the_end(service: Service) -> None:
    job = await service.submit(retry_policy=RetryPolicy(5, (JobErrorCode.STALLED,)))
    (await service.executor.execution(job.job_id)).fail()
    assert (await service.reaches(job.job_id, JobState.FAILED)).error == KILLED


@NO_REST
async def test_a_timeout_is_tried_again_where_the_policy_says_so(service: Service) -> None:
    job = await service.submit(run_timeout=0.05, retry_policy=RetryPolicy(2, (JobErrorCode.TIMEOUT,)))
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert (job.attempt, job.failures) == (2, 1)
    assert job.error is not None
    assert job.error.reason == "RUN_TIMEOUT"


@NO_REST
async def test_attempts_that_the_servers_end_cut_short_are_not_counted(new_service: NewService) -> None:
    service = await new_service()
    job = await service.submit(retry_policy=RetryPolicy(max_attempts=2))
    await service.executor.execution(job.job_id)
    await service.stop()
    service = await new_service()
    (await service.executor.execution(job.job_id, 2)).fail()
    await service.executor.execution(job.job_id, 3)
    await service.stop()
    service = await new_service()
    (await service.executor.execution(job.job_id, 4)).fail()
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert (job.attempt, job.failures) == (4, 1)


@NO_REST
async def test_a_job_that_failed_waits_behind_those_that_were_there(
    new_service: NewService,
) -> None:
    service = await new_service()
    poison = await service.submit(retry_policy=RetryPolicy())
    there = [await service.submit() for _ in range(2)]
    less_urgent = await service.submit(priority=-1)
    first = await service.executor.execution(poison.job_id)
    first.fail()
    await service.reaches(there[0].job_id, JobState.RUNNING)
    later = await service.submit()
    waiting = [there[1].job_id, poison.job_id, later.job_id, less_urgent.job_id]
    assert list(service.scheduler.queue().queued) == waiting
    await service.stop()
    service = await new_service("cpu", prepare=lambda life: None)
    order = service.scheduler.queue()
    assert [*order.running, *order.queued] == [there[0].job_id, *waiting]


async def test_a_job_that_rests_after_a_failure_keeps_nobody_waiting(service: Service) -> None:
    poison = await service.submit(priority=5, retry_policy=RetryPolicy())
    other = await service.submit()
    (await service.executor.execution(poison.job_id)).fail()
    (await service.executor.execution(other.job_id)).complete()
    await service.reaches(other.job_id, JobState.COMPLETED)
    (await service.executor.execution(poison.job_id, 2)).complete()
    await service.reaches(poison.job_id, JobState.COMPLETED)
    assert service.executor.order == [poison.order, other.order, poison.order]


async def test_a_job_can_be_cancelled_while_it_rests(service: Service) -> None:
    job = await service.submit(retry_policy=RetryPolicy())
    (await service.executor.execution(job.job_id)).fail()
    await until(lambda: service.scheduler.position(job.job_id) == 0)
    assert (await service.scheduler.cancel(job.job_id, "enough")).state is JobState.CANCELLED
    await asyncio.sleep(0)
    assert len(service.executor.executions) == 1


async def test_a_failure_after_a_cancellation_is_not_tried_again(service: Service) -> None:
    job = await service.submit(retry_policy=RetryPolicy())
    service.executor.obedient = False
    execution = await service.executor.execution(job.job_id)
    await service.scheduler.cancel(job.job_id, "enough")
    execution.fail()
    await service.reaches(job.job_id, JobState.CANCELLED)


def test_the_rest_grows_with_every_failure_up_to_a_minute() -> None:
    assert [retry.rest(failures) for failures in (1, 2, 3, 7, 100)] == [1.0, 2.0, 4.0, 60.0, 60.0]


async def test_a_result_that_cannot_be_recorded_fails_its_job_and_the_next_one_runs(service: Service) -> None:
    job, following = await service.submit(), await service.submit()
    # As of a text that UTF-8 cannot say: what a store raises that would not take it the next time either.
    unsayable = dataclasses.replace(result(), results_json="\ud83d")
    (await service.executor.execution(job.job_id)).tell(Completed(unsayable))
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.reason) == (JobErrorCode.INTERNAL, "RESULT_NOT_RECORDED")
    (await service.executor.execution(following.job_id)).complete()
    await service.reaches(following.job_id, JobState.COMPLETED)


def test_retries_are_for_evaluations() -> None:
    from lmms_eval_grpc.jobs.spec import MergeSpec
    from tests.jobs.examples import submitted

    error = JobError(JobErrorCode.WORKER_DIED, "WORKER_KILLED", "")
    assert not retry.is_retried(submitted(1, spec=MergeSpec("checkpoint")), error)
