"""The order of those who wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_eval_grpc.scheduler.queue import JobQueue
from tests.jobs.examples import submitted


def test_priority_comes_before_submission() -> None:
    queue = JobQueue()
    for order, priority in ((1, 0), (2, 5), (3, -1), (4, 5), (5, 0)):
        queue.add(submitted(order, priority=priority))
    assert queue.ids() == ("job-2", "job-4", "job-1", "job-5", "job-3")
    assert [queue.position(job_id) for job_id in queue.ids()] == [0, 1, 2, 3, 4]


def test_who_does_not_wait_has_no_position() -> None:
    queue = JobQueue()
    queue.add(submitted(1))
    queue.discard("job-1")
    queue.discard("job-1")
    assert queue.position("job-1") is None
    assert "job-1" not in queue
    assert (len(queue), list(queue)) == (0, [])


def test_nobody_waits_twice() -> None:
    queue = JobQueue()
    queue.add(submitted(1))
    with pytest.raises(ValueError, match="queued already"):
        queue.add(submitted(1))


@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), max_size=40))
def test_it_is_always_in_order(arrivals: list[tuple[int, bool]]) -> None:
    queue, waiting = JobQueue(), {}
    for order, (priority, leaves) in enumerate(arrivals):
        job = submitted(order, priority=priority)
        queue.add(job)
        waiting[job.job_id] = job
        if leaves:
            gone = list(waiting)[order % len(waiting)]
            queue.discard(gone)
            del waiting[gone]
        expected = sorted(waiting.values(), key=lambda each: each.queue_key)
        assert list(queue) == expected
        assert [queue.position(job.job_id) for job in expected] == list(range(len(expected)))
