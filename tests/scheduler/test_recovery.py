"""A server that was killed, or stopped, loses nothing."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from lmms_eval_grpc.jobs.errors import JobUnreadable, NotAccepting
from lmms_eval_grpc.jobs.events import StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.state import JobState
from tests.jobs.examples import progress, task_result
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import until


async def crash(service: Service) -> None:
    """Leaves the store as a killed server does: nothing more is written, nobody is told anything."""
    service.running = False
    dispatcher = service.scheduler._dispatcher
    tasks = [*dispatcher._carrying, dispatcher._task]
    for task in tasks:
        assert task is not None
        task.cancel()
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
    await service.scheduler._retention.close()
    await service.store.close()


async def test_after_a_crash_running_jobs_run_again_in_their_old_place(new_service: NewService) -> None:
    service = await new_service()
    running = await service.submit()
    execution = await service.executor.execution(running.job_id)
    execution.tell(task_result("digits"))
    log = await service.journal.log(running.job_id)
    await until(lambda: log.job.sequence == 3)
    waiting = [await service.submit() for _ in range(3)]
    await crash(service)

    service = await new_service()
    # Jobs that waited may have been prepared.
    assert service.executor.cleared == [service.scheduler.job_dir(job.job_id) for job in (running, *waiting)]
    execution = await service.executor.execution(running.job_id, attempt=2)
    assert execution.job.task_results == (task_result("digits"),)
    assert service.scheduler.queue().queued == tuple(job.job_id for job in waiting)
    events = (await service.journal.log(running.job_id)).after(3)
    assert [event.body for event in events] == [
        StateChange(JobState.RUNNING, JobState.QUEUED, 1, "server restarted"),
        StateChange(JobState.QUEUED, JobState.RUNNING, 2),
    ]
    execution.complete()
    job = await service.reaches(running.job_id, JobState.COMPLETED)
    assert job.attempt == 2


async def test_a_job_that_was_being_cancelled_is_cancelled(new_service: NewService) -> None:
    service = await new_service()
    service.executor.obedient = False
    job = await service.submit()
    await service.executor.execution(job.job_id)
    await service.scheduler.cancel(job.job_id, "not needed")
    await crash(service)
    service = await new_service()
    assert service.executor.cleared == [service.scheduler.job_dir(job.job_id)]
    job = await service.journal.job(job.job_id)
    assert (job.state, job.cancel_reason) == (JobState.CANCELLED, "not needed")
    assert service.scheduler.queue().queued == ()
    assert service.executor.executions == []


async def test_priorities_hold_after_a_restart(new_service: NewService) -> None:
    service = await new_service("cuda:0")
    await service.executor.execution((await service.submit()).job_id)
    jobs = [await service.submit(priority=priority) for priority in (0, 5, -5, 5)]
    before = service.scheduler.queue().queued
    await crash(service)
    service = await new_service("cuda:0")
    # The one that ran is of priority 0 and was submitted first; those of priority 5 go before it.
    assert (await service.executor.execution(jobs[1].job_id)).job.attempt == 1
    assert [job_id for job_id in service.scheduler.queue().queued if job_id in before] == list(before[1:])


async def test_a_job_that_no_device_fits_any_more_fails_and_holds_nobody_up(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1")
    service.executor.hold = asyncio.Event()
    await service.submit(num_gpus=2)
    wide = await service.submit(num_gpus=2)
    narrow = await service.submit()
    await crash(service)
    service = await new_service("cuda:0")
    job = await service.journal.job(wide.job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.reason) == (JobErrorCode.INVALID, "NO_SUCH_DEVICE")
    assert "2 devices asked for" in job.error.message
    assert await service.executor.execution(narrow.job_id)


async def test_an_orderly_stop_puts_running_jobs_back(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1")
    jobs = [await service.submit() for _ in range(3)]
    for job in jobs[:2]:
        await service.executor.execution(job.job_id)
    await service.scheduler.stop()
    assert service.executor.stopped
    for job in jobs:
        assert (await service.store.get(job.job_id)).state is JobState.QUEUED  # type: ignore[union-attr]
    reasons = [event.body.reason for event in (await service.journal.log(jobs[0].job_id)).after(2)]  # type: ignore[union-attr]
    assert reasons == ["server stopped"]
    service.running = False
    await service.store.close()

    service = await new_service("cuda:0", "cuda:1")
    assert service.executor.cleared == [service.scheduler.job_dir(job.job_id) for job in jobs]
    execution = await service.executor.execution(jobs[0].job_id, attempt=2)
    execution.complete()
    await service.reaches(jobs[0].job_id, JobState.COMPLETED)


async def test_a_job_that_completes_during_the_stop_is_complete(new_service: NewService) -> None:
    service = await new_service()
    service.executor.kills = False
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    stop = asyncio.create_task(service.scheduler.stop())
    await until(lambda: service.executor.stopped)
    execution.tell(task_result())
    execution.complete()
    await stop
    stored = await service.store.get(job.job_id)
    assert stored is not None
    assert (stored.state, stored.task_results) == (JobState.COMPLETED, (task_result(),))


async def test_a_job_being_cancelled_during_the_stop_is_cancelled(new_service: NewService) -> None:
    service = await new_service()
    service.executor.obedient = False
    job = await service.submit()
    await service.executor.execution(job.job_id)
    await service.scheduler.cancel(job.job_id, "")
    await service.scheduler.stop()
    assert (await service.journal.job(job.job_id)).state is JobState.CANCELLED


async def test_a_worker_that_never_answers_does_not_hold_the_stop_up(new_service: NewService) -> None:
    service = await new_service(stop_timeout=0.1)
    service.executor.kills = False
    job = await service.submit()
    await service.executor.execution(job.job_id)
    await service.stop()
    service = await new_service()
    assert service.executor.cleared == [service.scheduler.job_dir(job.job_id)]
    assert await service.executor.execution(job.job_id, attempt=2)


async def test_a_draining_server_lets_run_what_runs_and_starts_nothing(service: Service) -> None:
    running = await service.submit(request_id="r", request_digest="d")
    waiting = await service.submit()
    execution = await service.executor.execution(running.job_id)
    await service.scheduler.drain()
    assert not service.scheduler.accepting
    with pytest.raises(NotAccepting, match="being stopped"):
        await service.submit()
    assert (await service.submit(request_id="r", request_digest="d")).job_id == running.job_id
    execution.complete()
    await service.reaches(running.job_id, JobState.COMPLETED)
    await asyncio.sleep(0.05)
    assert service.scheduler.queue().queued == (waiting.job_id,)
    assert len(service.executor.executions) == 1


async def test_a_stop_at_the_moment_of_a_start_loses_nothing(new_service: NewService) -> None:
    for pause in (0.0, 0.001, 0.002, 0.005):
        service = await new_service()
        job = await service.submit()
        await asyncio.sleep(pause)
        await service.scheduler.stop()
        stored = await service.store.get(job.job_id)
        assert stored is not None
        assert stored.state is JobState.QUEUED
        service.running = False
        await service.store.close()
        service = await new_service()
        for each in (await service.store.unfinished()).jobs:
            await service.scheduler.cancel(each.job_id, "")
            await service.reaches(each.job_id, JobState.CANCELLED)
        await service.stop()


async def test_a_job_whose_server_dies_again_and_again_has_failed(new_service: NewService) -> None:
    service = await new_service(max_attempts=3)
    job = await service.submit()
    for attempt in (1, 2, 3):
        await service.executor.execution(job.job_id, attempt)
        await crash(service)
        service = await new_service(max_attempts=3)
    job = await service.journal.job(job.job_id)
    assert (job.state, job.attempt) == (JobState.FAILED, 3)
    assert job.error is not None
    assert (job.error.code, job.error.reason) == (JobErrorCode.INTERNAL, "TOO_MANY_ATTEMPTS")
    assert "during 3 attempts" in job.error.message
    assert service.executor.cleared == [service.scheduler.job_dir(job.job_id)]
    following = await service.submit()
    assert await service.executor.execution(following.job_id)


async def test_attempts_that_an_orderly_stop_ended_are_not_held_against_a_job(new_service: NewService) -> None:
    service = await new_service(max_attempts=2)
    job = await service.submit()
    for attempt in (1, 2, 3):
        await service.executor.execution(job.job_id, attempt)
        await service.stop()
        service = await new_service(max_attempts=2)
    await service.executor.execution(job.job_id, attempt=4)
    await crash(service)
    service = await new_service(max_attempts=2)
    (await service.executor.execution(job.job_id, attempt=5)).complete()
    await service.reaches(job.job_id, JobState.COMPLETED)


def rewrite(service: Service, table: str, job: Job, old: str, new: str) -> None:
    """Has a row of a job say what a later release would."""
    column = "job" if table == "jobs" else "body"
    with sqlite3.connect(service.settings.jobs_dir.parent / "jobs.sqlite3") as connection:
        changed = connection.execute(
            f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE position = ?", (old, new, job.order)
        )
    connection.close()
    assert changed.rowcount > 0


async def test_jobs_that_this_release_cannot_read_are_left_alone_and_hold_nobody_up(new_service: NewService) -> None:
    service = await new_service("cuda:0", "cuda:1", "cuda:2")
    jobs = [await service.submit() for _ in range(5)]
    for job in jobs[:3]:
        execution = await service.executor.execution(job.job_id)
        execution.tell(progress(3))
        log = await service.journal.log(job.job_id)
        await until(lambda log=log: log.job.sequence == 3)  # type: ignore[misc]
    await crash(service)
    rewrite(service, "jobs", jobs[0], '"generating"', '"aggregating"')
    rewrite(service, "events", jobs[1], '"generating"', '"aggregating"')
    rewrite(service, "events", jobs[3], '"state_change"', '"a_later_event"')
    service = await new_service("cuda:0", "cuda:1", "cuda:2")
    unreadable = [jobs[0], jobs[1], jobs[3]]
    for job in unreadable:
        with pytest.raises(JobUnreadable):
            await service.journal.job(job.job_id)
    # Their workers may have outlived the server all the same.
    assert {jobs[0].job_id, jobs[1].job_id} <= {folder.name for folder in service.executor.cleared}
    assert await service.executor.execution(jobs[2].job_id, attempt=2)
    assert await service.executor.execution(jobs[4].job_id)
    assert service.scheduler.queue().queued == ()
    await service.stop()
    # The release that wrote them goes on where it was.
    rewrite(service, "jobs", jobs[0], '"aggregating"', '"generating"')
    rewrite(service, "events", jobs[1], '"aggregating"', '"generating"')
    rewrite(service, "events", jobs[3], '"a_later_event"', '"state_change"')
    service = await new_service("cuda:0", "cuda:1", "cuda:2")
    assert await service.executor.execution(jobs[0].job_id, attempt=2)
    assert await service.executor.execution(jobs[1].job_id, attempt=2)
    assert service.scheduler.position(jobs[3].job_id) is not None
