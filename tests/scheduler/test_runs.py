"""One attempt: what its worker reports, and every way in which it can end."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math

import pytest

from lmms_eval_grpc.jobs.events import Completed, JobEvent, Stopped
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobErrorCode, MergeResult, Progress, TaskResult
from lmms_eval_grpc.jobs.spec import MergeSpec
from lmms_eval_grpc.jobs.state import JobState
from tests.jobs.examples import progress, task_result
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import KILLED, until


async def test_task_results_are_recorded_in_order(service: Service) -> None:
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    results = [task_result(f"task-{number}") for number in range(20)]
    execution.tell(*results)
    execution.complete()
    job = await service.reaches(job.job_id, JobState.COMPLETED)
    assert job.task_results == tuple(results)
    bodies = [event.body for event in await service.store.events(job.job_id)]
    assert bodies[2:-1] == results


async def test_a_result_that_an_earlier_attempt_told_is_not_told_again(new_service: NewService) -> None:
    service = await new_service()
    job = await service.submit()
    undefined = task_result("c", math.nan)
    (await service.executor.execution(job.job_id)).tell(task_result("a"), task_result("b", 0.5), undefined)
    log = await service.journal.log(job.job_id)
    await until(lambda: len(log.job.task_results) == 3)
    await service.stop()
    service = await new_service()
    execution = await service.executor.execution(job.job_id, attempt=2)
    # The time that it took counts for nothing; another value does.
    again = dataclasses.replace(task_result("a"), elapsed_seconds=0.1)
    execution.tell(again, task_result("b", 0.75), dataclasses.replace(undefined, elapsed_seconds=0.1))
    execution.complete()
    job = await service.reaches(job.job_id, JobState.COMPLETED)
    bodies = [event.body for event in await service.store.events(job.job_id)]
    told = [(body.task, body.metrics[0].value) for body in bodies if isinstance(body, TaskResult)]
    assert repr(told) == repr([("a", 0.5), ("b", 0.5), ("c", math.nan), ("b", 0.75)])
    assert {result.task: result.metrics[0].value for result in job.task_results if result.task != "c"} == {
        "a": 0.5,
        "b": 0.75,
    }


async def test_nothing_older_follows_a_tasks_result(new_service: NewService) -> None:
    service = await new_service(progress_interval=3600.0)
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    log = await service.journal.log(job.job_id)
    execution.tell(progress(1, 0))
    await until(lambda: log.job.progress == progress(1, 0))
    execution.tell(progress(99, 0), progress(100, 0), task_result("digits"), progress(101, 0))
    await until(lambda: bool(log.job.task_results))
    bodies = [event.body for event in log.after(0)]
    assert bodies[2:] == [progress(100, 0), task_result("digits")]
    # What comes after it is held back as before.
    await asyncio.sleep(0.05)
    assert log.job.progress == progress(100, 0)
    execution.complete()
    job = await service.reaches(job.job_id, JobState.COMPLETED)
    assert job.progress == progress(101, 0)


async def test_a_merge_ends_with_its_own_result(service: Service) -> None:
    job = await service.scheduler.submit(MergeSpec("checkpoint"))
    (await service.executor.execution(job.job_id)).tell(Completed(MergeResult("merged", 7)))
    assert (await service.reaches(job.job_id, JobState.COMPLETED)).result == MergeResult("merged", 7)


async def test_progress_is_throttled_and_the_newest_survives(new_service: NewService) -> None:
    heard: list[JobEvent] = []

    def prepare(service: Service) -> None:
        def listen(_: Job, event: JobEvent) -> None:
            heard.append(event)

        service.journal.listen(listen)

    service = await new_service(prepare=prepare, progress_interval=0.25)
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    for done in range(200):
        execution.tell(progress(done, 200))
        await asyncio.sleep(0.004)
    execution.complete()
    job = await service.reaches(job.job_id, JobState.COMPLETED)
    assert job.progress is not None
    assert job.progress.samples_done == 199
    told = [event for event in heard if isinstance(event.body, Progress)]
    # The last one is told at the end of the job, however short the time since the one before.
    assert all(later.time - earlier.time > 0.2 for earlier, later in itertools.pairwise(told[:-1]))
    assert isinstance(heard[-2].body, Progress)
    assert heard[-1].terminal


async def test_the_time_left_is_estimated(service: Service) -> None:
    job = await service.submit()
    (await service.executor.execution(job.job_id)).tell(progress(20, 100, samples_per_second=4.0))
    log = await service.journal.log(job.job_id)
    await until(lambda: log.job.progress is not None)
    assert log.job.progress is not None
    assert log.job.progress.remaining_seconds == 20.0


async def test_a_worker_that_fails_fails_its_job_only(service: Service) -> None:
    job, following = await service.submit(), await service.submit()
    execution = await service.executor.execution(job.job_id)
    execution.tell(task_result())
    execution.fail()
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert (job.error, job.result) == (KILLED, None)
    assert job.task_results == (task_result(),)
    (await service.executor.execution(following.job_id)).complete()
    await service.reaches(following.job_id, JobState.COMPLETED)


async def test_an_executor_that_cannot_start_a_worker_fails_the_job_and_the_queue_goes_on(service: Service) -> None:
    service.executor.refusal = OSError("no more processes")
    job = await service.submit()
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.reason) == (JobErrorCode.INTERNAL, "EXECUTOR_FAILED")
    assert "OSError: no more processes" in job.error.message
    service.executor.refusal = None
    following = await service.submit()
    (await service.executor.execution(following.job_id)).complete()
    await service.reaches(following.job_id, JobState.COMPLETED)


@pytest.mark.parametrize("error", [ValueError("a frame that is none"), None])
async def test_reports_that_break_off_fail_the_job_and_free_its_devices(
    service: Service, error: Exception | None
) -> None:
    job, following = await service.submit(), await service.submit()
    execution = await service.executor.execution(job.job_id)
    execution.break_with(error)
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert job.error is not None
    assert job.error.code is JobErrorCode.INTERNAL
    # Its worker may still be there: it is not left with the devices.
    assert execution.cancellations == ["the executor failed"]
    assert await service.executor.execution(following.job_id)


async def test_a_worker_that_stops_unasked_has_failed(service: Service) -> None:
    job = await service.submit()
    (await service.executor.execution(job.job_id)).tell(Stopped())
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert job.error is not None
    assert job.error.reason == "WORKER_STOPPED"


async def test_a_folder_that_cannot_be_made_fails_the_job(service: Service) -> None:
    service.settings.jobs_dir.write_text("a file where the folder should be")
    job = await service.submit()
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert job.error is not None
    assert job.error.code is JobErrorCode.INTERNAL


async def test_an_attempt_that_takes_too_long_is_stopped(service: Service) -> None:
    job = await service.submit(run_timeout=0.1)
    execution = await service.executor.execution(job.job_id)
    execution.tell(task_result())
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert execution.cancellations == ["run_timeout"]
    assert job.error is not None
    assert (job.error.code, job.error.reason) == (JobErrorCode.TIMEOUT, "RUN_TIMEOUT")
    assert "0.1 s" in job.error.message
    assert job.task_results == (task_result(),)


async def test_a_worker_that_has_to_be_killed_at_its_timeout_has_timed_out(service: Service) -> None:
    service.executor.obedient = False
    job = await service.submit(run_timeout=0.05)
    execution = await service.executor.execution(job.job_id)
    await until(lambda: bool(execution.cancellations))
    execution.fail()
    job = await service.reaches(job.job_id, JobState.FAILED)
    assert job.error is not None
    assert job.error.code is JobErrorCode.TIMEOUT


async def test_a_job_that_completes_at_its_timeout_is_complete(service: Service) -> None:
    service.executor.obedient = False
    job = await service.submit(run_timeout=0.05)
    execution = await service.executor.execution(job.job_id)
    await until(lambda: bool(execution.cancellations))
    execution.complete()
    await service.reaches(job.job_id, JobState.COMPLETED)


async def test_a_job_in_time_is_left_alone(service: Service) -> None:
    job = await service.submit(run_timeout=0.2)
    execution = await service.executor.execution(job.job_id)
    execution.complete()
    await service.reaches(job.job_id, JobState.COMPLETED)
    await asyncio.sleep(0.3)
    assert execution.cancellations == []


async def test_a_store_that_fails_for_a_while_costs_progress_only(new_service: NewService) -> None:
    service = await new_service(progress_interval=0.01)
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    service.store.broken = True
    execution.tell(progress(1))
    await until(lambda: service.store.refused >= 1)
    execution.tell(task_result("a"), progress(2), task_result("b"))
    execution.complete()
    await until(lambda: service.store.refused >= 4)
    log = await service.journal.log(job.job_id)
    assert (log.job.state, log.job.sequence) == (JobState.RUNNING, 2)
    service.store.broken = False
    job = await service.reaches(job.job_id, JobState.COMPLETED)
    assert job.task_results == (task_result("a"), task_result("b"))
    numbers = [event.sequence for event in log.after(0)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert await service.store.events(job.job_id) == log.after(0)
