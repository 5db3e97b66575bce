"""What any job store promises. A new implementation joins by an entry in ``conftest.STORES``."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable

import pytest

from lmms_eval_grpc.jobs.errors import JobNotFound, RequestIdConflict, StoreUnavailable
from lmms_eval_grpc.jobs.events import JobEvent
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import MergeSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.store.base import JobFilter, JobStore, Unfinished
from tests.jobs.examples import progress, queued, result, task_result, then


async def lived_through(store: JobStore, order: int, *bodies: object, **changes: object) -> Job:
    """Puts a job into the store, lets it live through ``bodies``, and returns it."""
    job, event = queued(order, **changes)
    await store.insert(job, event)
    for body in bodies:
        outcome = {"result": result()} if body is JobState.COMPLETED else {}
        job, event = then(job, body, **outcome)  # type: ignore[arg-type]
        await store.append(job, event)
    return job


async def test_a_new_store_is_empty(store: JobStore) -> None:
    assert store.trouble is None
    assert await store.get("nothing") is None
    assert await store.find_request("nothing") is None
    assert await store.events("nothing") == []
    assert await store.unfinished() == Unfinished([], [])
    assert await store.page(JobFilter(), before_order=None, size=10, full=True) == []
    assert await store.counts() == dict.fromkeys(JobState, 0)
    assert await store.last_order() == 0
    assert await store.expired(keep=0, ended_before=math.inf) == []


async def test_a_job_is_read_as_it_was_written(store: JobStore) -> None:
    job = await lived_through(
        store,
        1,
        JobState.RUNNING,
        task_result("digits"),
        progress(3),
        labels={"run": "sft"},
        request_id="r",
        priority=3,
    )
    assert await store.get(job.job_id) == job
    assert await store.find_request("r") == job
    job, event = then(job, JobState.COMPLETED, result=result("digits"))
    await store.append(job, event)
    assert await store.get(job.job_id) == job


async def test_a_merge_is_a_job_like_any_other(store: JobStore) -> None:
    job = await lived_through(store, 1, spec=MergeSpec("checkpoint"))
    assert await store.get(job.job_id) == job


async def test_undefined_metrics_are_kept(store: JobStore) -> None:
    job = await lived_through(store, 1, JobState.RUNNING, task_result("digits", math.nan))
    found = await store.get(job.job_id)
    assert found is not None
    assert math.isnan(found.task_results[0].metrics[0].value)


async def test_everything_is_there_after_reopening(new_store: Callable[[], JobStore]) -> None:
    store = new_store()
    await store.open()
    job = await lived_through(store, 1, JobState.RUNNING, task_result("digits"), JobState.COMPLETED)
    events = await store.events(job.job_id)
    await store.close()
    again = new_store()
    await again.open()
    try:
        assert await again.get(job.job_id) == job
        assert await again.events(job.job_id) == events
        assert await again.last_order() == 1
    finally:
        await again.close()


async def test_events_are_read_after_a_sequence_and_without_superseded_progress(store: JobStore) -> None:
    job = await lived_through(
        store, 1, JobState.RUNNING, progress(1), progress(2), task_result("a"), progress(3), task_result("b")
    )
    events = await store.events(job.job_id)
    assert [event.sequence for event in events] == [1, 2, 5, 6, 7]
    assert [event.body for event in events][2:] == [task_result("a"), progress(3), task_result("b")]
    assert [event.sequence for event in await store.events(job.job_id, after=5)] == [6, 7]
    assert await store.events(job.job_id, after=7) == []


async def test_writes_take_effect_in_the_order_of_the_calls(store: JobStore) -> None:
    job, event = queued(1)
    writes = [store.insert(job, event)]
    job, event = then(job, JobState.RUNNING)
    writes.append(store.append(job, event))
    for done in range(200):
        job, event = then(job, progress(done, 200))
        writes.append(store.append(job, event))
    await asyncio.gather(*writes)
    assert await store.get(job.job_id) == job


async def test_an_event_out_of_turn_changes_nothing(store: JobStore) -> None:
    job = await lived_through(store, 1, JobState.RUNNING)
    ahead, event = then(dataclasses.replace(job, sequence=job.sequence + 1), progress(1))
    with pytest.raises(ValueError, match="cannot follow event 2"):
        await store.append(ahead, event)
    assert await store.get(job.job_id) == job
    assert len(await store.events(job.job_id)) == 2


async def test_an_event_of_an_unknown_job_is_refused(store: JobStore) -> None:
    job, event = then(queued(1)[0], JobState.RUNNING)
    with pytest.raises(JobNotFound):
        await store.append(job, event)


async def test_a_request_id_belongs_to_one_job(store: JobStore) -> None:
    first = await lived_through(store, 1, request_id="r")
    job, event = queued(2, request_id="r")
    with pytest.raises(RequestIdConflict) as refused:
        await store.insert(job, event)
    assert refused.value.job_id == first.job_id
    assert await store.get(job.job_id) is None
    # Jobs without a request id do not get in each other's way.
    await lived_through(store, 3)
    await lived_through(store, 4)


async def test_one_failing_write_among_many_fails_alone(store: JobStore) -> None:
    await lived_through(store, 1, request_id="taken")
    orders = range(2, 42)
    outcomes = await asyncio.gather(
        *(store.insert(*queued(order, request_id="taken" if order == 20 else f"r{order}")) for order in orders),
        return_exceptions=True,
    )
    assert [order for order, outcome in zip(orders, outcomes, strict=True) if outcome is not None] == [20]
    kept = await store.page(JobFilter(), before_order=None, size=100, full=False)
    assert [job.order for job in kept] == [order for order in range(41, 0, -1) if order != 20]


async def test_unfinished_jobs_come_in_submission_order(store: JobStore) -> None:
    await lived_through(store, 5, JobState.RUNNING)
    await lived_through(store, 2)
    await lived_through(store, 3, JobState.RUNNING, JobState.COMPLETED)
    await lived_through(store, 4, JobState.RUNNING, JobState.CANCELLING)
    assert [job.order for job in (await store.unfinished()).jobs] == [2, 4, 5]


async def test_pages_follow_each_other_newest_first(store: JobStore) -> None:
    for order in range(1, 8):
        await lived_through(store, order)
    seen: list[int] = []
    before: int | None = None
    while jobs := await store.page(JobFilter(), before_order=before, size=3, full=False):
        seen.extend(job.order for job in jobs)
        before = jobs[-1].order
        await lived_through(store, 100 + before)  # A newcomer moves nothing on the pages to come.
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_a_page_can_be_chosen_by_state_and_by_labels(store: JobStore) -> None:
    await lived_through(store, 1, labels={"run": "a", "step": "1"})
    await lived_through(store, 2, JobState.RUNNING, labels={"run": "a", "step": "2"})
    await lived_through(store, 3, JobState.RUNNING, labels={"run": "b", "step": "2"})
    await lived_through(store, 4, labels={"run": "a%", "note": 'it\'s "quoted"'})

    async def orders(selection: JobFilter) -> list[int]:
        return [job.order for job in await store.page(selection, before_order=None, size=10, full=False)]

    assert await orders(JobFilter(labels={"run": "a"})) == [2, 1]
    assert await orders(JobFilter(labels={"run": "a", "step": "2"})) == [2]
    assert await orders(JobFilter(labels={"run": "c"})) == []
    assert await orders(JobFilter(labels={"note": 'it\'s "quoted"'})) == [4]
    assert await orders(JobFilter(states=frozenset({JobState.RUNNING}))) == [3, 2]
    assert await orders(JobFilter(frozenset({JobState.RUNNING, JobState.QUEUED}), {"step": "2"})) == [3, 2]
    assert await orders(JobFilter(frozenset({JobState.FAILED}))) == []


async def test_a_page_can_be_chosen_by_owner(store: JobStore) -> None:
    await lived_through(store, 1, owner="alice", labels={"run": "a"})
    await lived_through(store, 2, JobState.RUNNING, owner="bob")
    await lived_through(store, 3, JobState.RUNNING, owner="alice")
    await lived_through(store, 4)

    async def orders(selection: JobFilter, before: int | None = None) -> list[int]:
        return [job.order for job in await store.page(selection, before_order=before, size=10, full=False)]

    assert await orders(JobFilter(owner="alice")) == [3, 1]
    assert await orders(JobFilter(owner="alice"), before=3) == [1]
    assert await orders(JobFilter(owner="alice", labels={"run": "a"})) == [1]
    assert await orders(JobFilter(frozenset({JobState.RUNNING}), owner="bob")) == [2]
    assert await orders(JobFilter(owner="ali%")) == []
    assert await orders(JobFilter()) == [4, 3, 2, 1]


async def test_a_basic_page_carries_no_results(store: JobStore) -> None:
    job = await lived_through(store, 1, JobState.RUNNING, task_result(), JobState.COMPLETED)
    assert job.result is not None
    (basic,) = await store.page(JobFilter(), before_order=None, size=1, full=False)
    assert basic == dataclasses.replace(job, task_results=(), result=None)
    (full,) = await store.page(JobFilter(), before_order=None, size=1, full=True)
    assert full == job


async def test_jobs_are_counted_by_state(store: JobStore) -> None:
    await lived_through(store, 1)
    await lived_through(store, 2)
    await lived_through(store, 3, JobState.RUNNING, JobState.FAILED)
    counts = await store.counts()
    assert counts == {**dict.fromkeys(JobState, 0), JobState.QUEUED: 2, JobState.FAILED: 1}


async def test_retention_gives_up_what_ended_first_and_what_is_old(store: JobStore) -> None:
    # The clock was set back twice: which ended first is told by the order of the writes.
    ends = {1: 500.0, 2: 400.0, 4: 300.0, 3: 600.0}
    for order, end in ends.items():
        job = await lived_through(store, order, JobState.RUNNING)
        job, event = then(job, JobState.COMPLETED, time=end)
        await store.append(job, event)
    await lived_through(store, 5)
    await lived_through(store, 6, JobState.RUNNING)
    assert await store.expired(keep=10, ended_before=None) == []
    assert await store.expired(keep=2, ended_before=None) == ["job-1", "job-2"]
    assert await store.expired(keep=None, ended_before=400.0) == ["job-4"]
    assert await store.expired(keep=3, ended_before=450.0) == ["job-1", "job-2", "job-4"]
    assert await store.expired(keep=0, ended_before=None) == ["job-1", "job-2", "job-4", "job-3"]


async def test_the_order_of_the_ends_outlives_removals_and_reopening(new_store: Callable[[], JobStore]) -> None:
    for order, end in ((1, 900.0), (2, 800.0), (3, 700.0)):
        store = new_store()
        await store.open()
        job = await lived_through(store, order, JobState.RUNNING)
        await store.append(*then(job, JobState.FAILED, time=end))
        if order == 2:
            await store.remove(["job-2"])
        await store.close()
    store = new_store()
    await store.open()
    assert await store.expired(keep=0, ended_before=None) == ["job-1", "job-3"]
    await store.close()


async def test_a_removed_job_is_forgotten_with_all_that_belongs_to_it(store: JobStore) -> None:
    gone = await lived_through(store, 1, JobState.RUNNING, JobState.COMPLETED, request_id="r", labels={"run": "a"})
    kept = await lived_through(store, 2, JobState.RUNNING, labels={"run": "a"})
    await store.remove([gone.job_id, kept.job_id, "nobody"])
    assert await store.get(gone.job_id) is None
    assert await store.events(gone.job_id) == []
    assert await store.find_request("r") is None
    # One that has not ended is never removed.
    assert await store.get(kept.job_id) == kept
    assert await store.page(JobFilter(labels={"run": "a"}), before_order=None, size=9, full=True) == [kept]


async def test_the_last_order_never_falls(new_store: Callable[[], JobStore]) -> None:
    store = new_store()
    await store.open()
    await lived_through(store, 7, JobState.RUNNING, JobState.COMPLETED)
    await lived_through(store, 3)
    await store.remove(["job-7"])
    assert await store.last_order() == 7
    await store.close()
    again = new_store()
    await again.open()
    assert await again.last_order() == 7
    await again.close()


async def test_a_job_id_and_an_order_are_given_once(store: JobStore) -> None:
    job = await lived_through(store, 1)
    for again in (queued(1, job_id="other"), queued(2, job_id=job.job_id)):
        with pytest.raises(ValueError, match="already"):
            await store.insert(*again)


async def test_closing_finishes_what_was_begun(new_store: Callable[[], JobStore]) -> None:
    store = new_store()
    await store.open()
    writes = [asyncio.create_task(store.insert(*queued(order))) for order in range(1, 101)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    again = new_store()
    await again.open()
    assert len((await again.unfinished()).jobs) == 100
    await again.close()


async def test_a_caller_that_is_cancelled_does_not_undo_its_write(new_store: Callable[[], JobStore]) -> None:
    store = new_store()
    await store.open()
    job, event = queued(1)
    write = asyncio.create_task(store.insert(job, event))
    await asyncio.sleep(0)
    write.cancel()
    await asyncio.gather(write, return_exceptions=True)
    await lived_through(store, 2)
    assert await store.get(job.job_id) == job
    await store.close()


async def test_a_closed_store_says_so(new_store: Callable[[], JobStore]) -> None:
    store = new_store()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("job-1")
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.insert(*queued(1))
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.last_order()


async def test_events_carry_time_and_body(store: JobStore) -> None:
    job, first = queued(1)
    await store.insert(job, first)
    job, second = then(job, JobState.RUNNING, time=1234.5)
    await store.append(job, second)
    assert await store.events(job.job_id) == [first, JobEvent(2, 1234.5, second.body)]


async def test_a_job_is_amended_between_two_events(store: JobStore) -> None:
    job = await lived_through(store, 1, labels={"run": "sft"}, request_id="r")
    other = await lived_through(store, 2)
    events = await store.events(job.job_id)
    amended = dataclasses.replace(job, priority=9)
    await store.amend(amended)
    assert await store.get(job.job_id) == amended
    assert await store.find_request("r") == amended
    assert await store.events(job.job_id) == events
    assert await store.get(other.job_id) == other
    running, event = then(amended, JobState.RUNNING)
    await store.append(running, event)
    with pytest.raises(JobNotFound):
        await store.amend(job)  # what it was two events ago
    with pytest.raises(JobNotFound):
        await store.amend(queued(3)[0])
    assert await store.get(job.job_id) == running


async def test_the_states_of_all_jobs_are_told(store: JobStore) -> None:
    assert await store.states() == {}
    jobs = [
        await lived_through(store, 1),
        await lived_through(store, 2, JobState.RUNNING),
        await lived_through(store, 3, JobState.RUNNING, JobState.FAILED),
    ]
    assert await store.states() == {job.job_id: job.state for job in jobs}
    await store.remove([jobs[2].job_id])
    assert jobs[2].job_id not in await store.states()
