"""Durable first, visible after; one log per job; followed without queues."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import JobNotFound, RequestIdConflict, SequenceOutOfRange, StoreUnavailable
from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from lmms_eval_grpc.scheduler.journal import JobLog, Journal
from tests.jobs.examples import progress, result, submitted, task_result
from tests.scheduler.doubles import PATIENCE, FailingStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FailingStore]:
    opened = FailingStore(tmp_path / "jobs.sqlite3")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def journal(store: FailingStore) -> Journal:
    return Journal(store, itertools.count(5000.0).__next__)


async def ended_and_dropped(journal: Journal, order: int = 1) -> Job:
    """A job that has ended and that is only in the store."""
    job = await journal.create(submitted(order))
    job = await journal.enter(job.job_id, JobState.CANCELLED)
    with journal.withdraw([job.job_id]):
        pass
    return job


def sequences(log: JobLog, after: int = 0) -> list[int]:
    return [event.sequence for event in log.after(after)]


async def test_a_new_job_has_one_event(journal: Journal) -> None:
    job = await journal.create(submitted(1))
    assert (job.sequence, job.state) == (1, JobState.QUEUED)
    log = await journal.log(job.job_id)
    assert log.job == job
    assert log.after(0) == [JobEvent(1, job.create_time, StateChange(None, JobState.QUEUED, 0))]


async def test_what_is_recorded_is_in_the_store_and_in_the_log(store: FailingStore, journal: Journal) -> None:
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.RUNNING, devices=("cuda:0",))
    await journal.record(job.job_id, task_result())
    job = await journal.enter(job.job_id, JobState.COMPLETED, result=result())
    assert (job.attempt, job.devices, job.result, job.end_time) == (1, ("cuda:0",), result(), 5002.0)
    assert await store.get(job.job_id) == job
    assert await store.events(job.job_id) == (await journal.log(job.job_id)).after(0)


async def test_nothing_is_seen_before_it_is_durable(store: FailingStore, journal: Journal) -> None:
    job = await journal.create(submitted(1))
    log = await journal.log(job.job_id)
    store.gate = asyncio.Event()
    write = asyncio.create_task(journal.enter(job.job_id, JobState.RUNNING))
    assert not await log.wait_beyond(1, 0.05)
    assert log.job.state is JobState.QUEUED
    store.gate.set()
    assert await log.wait_beyond(1, PATIENCE)
    assert await store.get(job.job_id) == log.job == await write


async def test_superseded_progress_leaves_memory(journal: Journal) -> None:
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.RUNNING)
    for done in range(50):
        await journal.record(job.job_id, progress(done))
    await journal.record(job.job_id, task_result())
    for done in range(50, 100):
        await journal.record(job.job_id, progress(done))
    log = await journal.log(job.job_id)
    assert sequences(log) == [1, 2, 53, 103]
    assert log.job.progress == progress(99)
    assert sequences(log, after=53) == [103]


async def test_a_sequence_ahead_of_the_log_is_refused(journal: Journal) -> None:
    log = await journal.log((await journal.create(submitted(1))).job_id)
    assert log.after(1) == []
    with pytest.raises(SequenceOutOfRange, match="newest event is 1"):
        log.after(2)


async def test_writes_of_one_job_queue_up_in_order(store: FailingStore, journal: Journal) -> None:
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.RUNNING)
    results = [task_result(f"task-{number}") for number in range(40)]
    jobs = await asyncio.gather(*(journal.record(job.job_id, each) for each in results))
    assert [each.sequence for each in jobs] == list(range(3, 43))
    assert [event.body for event in await store.events(job.job_id, after=2)] == results


async def test_a_failed_write_consumes_no_sequence(store: FailingStore, journal: Journal) -> None:
    job = await journal.create(submitted(1))
    log = await journal.log(job.job_id)
    await journal.enter(job.job_id, JobState.RUNNING)
    store.broken = True
    before = log.job
    with pytest.raises(StoreUnavailable):
        await journal.record(job.job_id, task_result())
    with pytest.raises(StoreUnavailable):
        await journal.enter(job.job_id, JobState.COMPLETED)
    assert log.job is before
    store.broken = False
    assert (await journal.record(job.job_id, task_result())).sequence == 3
    assert sequences(log) == [1, 2, 3]


async def test_a_job_that_cannot_be_stored_does_not_exist(store: FailingStore, journal: Journal) -> None:
    store.broken = True
    with pytest.raises(StoreUnavailable):
        await journal.create(submitted(1))
    store.broken = False
    with pytest.raises(JobNotFound):
        await journal.job("job-1")
    await journal.create(submitted(2, request_id="r"))
    with pytest.raises(RequestIdConflict):
        await journal.create(submitted(3, request_id="r"))


async def test_nothing_follows_the_end(journal: Journal) -> None:
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.CANCELLED, reason="not needed")
    for body in (progress(1), task_result(), StateChange(JobState.CANCELLED, JobState.RUNNING, 1)):
        with pytest.raises(IllegalTransition, match="has ended"):
            await journal.record(job.job_id, body)
    with pytest.raises(IllegalTransition):
        await journal.enter(job.job_id, JobState.RUNNING)
    assert (await journal.job(job.job_id)).sequence == 2


async def test_a_state_change_from_another_state_than_the_present_is_refused(journal: Journal) -> None:
    job = await journal.create(submitted(1))
    outcomes = await asyncio.gather(
        journal.enter(job.job_id, JobState.RUNNING),
        journal.record(job.job_id, StateChange(JobState.QUEUED, JobState.CANCELLED, 0)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], IllegalTransition)
    assert (await journal.job(job.job_id)).state is JobState.RUNNING


async def test_a_caller_that_goes_away_does_not_tear_memory_from_store(store: FailingStore, journal: Journal) -> None:
    job = await journal.create(submitted(1))
    store.gate = asyncio.Event()
    caller = asyncio.create_task(journal.enter(job.job_id, JobState.RUNNING))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    store.gate.set()
    log = await journal.log(job.job_id)
    assert await log.wait_beyond(1, PATIENCE)
    assert await store.get(job.job_id) == log.job
    assert (await journal.record(job.job_id, progress(1))).sequence == 3


async def test_times_do_not_go_back(store: FailingStore) -> None:
    times = iter([50.0, 40.0, 60.0])
    journal = Journal(store, lambda: next(times))
    job = await journal.create(submitted(1, create_time=45.0))
    await journal.enter(job.job_id, JobState.RUNNING)
    await journal.record(job.job_id, task_result())
    await journal.enter(job.job_id, JobState.COMPLETED)
    assert [event.time for event in (await journal.log(job.job_id)).after(0)] == [45.0, 50.0, 50.0, 60.0]


async def test_a_job_of_an_earlier_life_goes_on_where_it_was(store: FailingStore, journal: Journal) -> None:
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.RUNNING)
    await journal.record(job.job_id, progress(1))
    reopened = Journal(store)
    logs = await asyncio.gather(*(reopened.log(job.job_id) for _ in range(5)))
    assert all(log is logs[0] for log in logs)
    await reopened.record(job.job_id, task_result())
    assert sequences(logs[0]) == [1, 2, 3, 4]


async def test_an_unknown_job_is_not_found_by_anybody(journal: Journal) -> None:
    outcomes = await asyncio.gather(*(journal.log("nobody") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, JobNotFound) for outcome in outcomes)
    with pytest.raises(JobNotFound):
        await journal.record("nobody", progress(1))


async def test_few_ended_jobs_stay_in_memory_and_the_others_are_read_again(store: FailingStore) -> None:
    journal = Journal(store, kept_ended=2)
    for order in range(1, 6):
        job = await journal.create(submitted(order))
        await journal.enter(job.job_id, JobState.CANCELLED)
    gc.collect()
    assert len(journal._logs) == 2
    recent = await journal.log("job-5")
    assert await journal.log("job-5") is recent
    for order in range(1, 6):
        assert sequences(await journal.log(f"job-{order}")) == [1, 2]
    assert await journal.log("job-5") is not None
    assert len(journal._ended) == 2


async def test_listeners_hear_every_event_in_order_when_it_is_visible(journal: Journal) -> None:
    heard: list[tuple[str, int]] = []

    def listen(job: Job, event: JobEvent) -> None:
        heard.append((job.job_id, event.sequence))
        assert job.sequence == event.sequence

    journal.listen(listen)
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.RUNNING)
    await journal.record(job.job_id, progress(1))
    assert heard == [("job-1", 1), ("job-1", 2), ("job-1", 3)]


async def test_closing_wakes_every_watcher(journal: Journal) -> None:
    live = await journal.log((await journal.create(submitted(1))).job_id)
    job = await journal.create(submitted(2))
    await journal.enter(job.job_id, JobState.CANCELLED)
    ended = await journal.log(job.job_id)
    waits = [asyncio.create_task(log.wait_beyond(log.job.sequence, None)) for log in (live, ended) for _ in range(20)]
    await asyncio.sleep(0.01)
    journal.close()
    assert journal.closed
    assert await asyncio.gather(*waits) == [False] * 40
    assert not await live.wait_beyond(1, None)
    assert live.closed


async def test_a_wait_that_times_out_says_so(journal: Journal) -> None:
    log = await journal.log((await journal.create(submitted(1))).job_id)
    assert not await log.wait_beyond(1, 0.01)
    assert await log.wait_beyond(0, 0.0)


async def test_what_is_withdrawn_cannot_be_found_until_the_store_is_asked_again(
    store: FailingStore, journal: Journal
) -> None:
    job = await journal.create(submitted(1))
    await journal.enter(job.job_id, JobState.CANCELLED)
    with journal.withdraw([job.job_id]), pytest.raises(JobNotFound):
        await journal.log(job.job_id)
    assert (await journal.job(job.job_id)).state is JobState.CANCELLED
    with journal.withdraw([job.job_id]):
        await store.remove([job.job_id])
    with pytest.raises(JobNotFound):
        await journal.log(job.job_id)


async def test_a_log_that_was_being_read_during_the_removal_is_not_kept(
    store: FailingStore, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await ended_and_dropped(journal)
    read, gate = store.events, asyncio.Event()

    async def read_slowly(job_id: str, after: int = 0) -> list[JobEvent]:
        events = await read(job_id, after)
        await gate.wait()
        return events

    monkeypatch.setattr(store, "events", read_slowly)
    reading = asyncio.create_task(journal.log(job.job_id))
    await asyncio.sleep(0.05)
    with journal.withdraw([job.job_id]):
        await store.remove([job.job_id])
    gate.set()
    assert (await reading).job == job
    with pytest.raises(JobNotFound):
        await journal.log(job.job_id)


async def test_a_listener_that_fails_keeps_nothing_from_the_others(
    store: FailingStore, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def fail(job: Job, event: JobEvent) -> None:
        raise ValueError("a bug in what only counts")

    journal.listen(fail)
    journal.listen(lambda job, event: told.append(event.sequence))
    job = await journal.create(submitted(1))
    job = await journal.enter(job.job_id, JobState.RUNNING)
    assert told == [1, 2]
    assert await store.get(job.job_id) == job
    assert "a bug in what only counts" in caplog.text
