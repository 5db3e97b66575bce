"""Progress: not too often, never stale, with the time left."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from lmms_eval_grpc.jobs.results import JobStage, Progress
from lmms_eval_grpc.scheduler.progress import ProgressThrottle, RemainingTime, next_due
from tests.jobs.examples import progress
from tests.scheduler.doubles import until


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    async def __call__(self, report: Progress) -> None:
        self.seen.append((time.monotonic(), report.samples_done))


async def test_the_first_is_recorded_at_once_and_the_rest_at_intervals() -> None:
    recorder = Recorder()
    throttle = ProgressThrottle(recorder, 0.1)
    began = time.monotonic()
    for done in range(100):
        throttle.offer(progress(done))
        await asyncio.sleep(0.005)
    took = time.monotonic() - began
    assert recorder.seen[0][1] == 0
    times = [at for at, _ in recorder.seen]
    assert all(later - earlier >= 0.049 for earlier, later in itertools.pairwise(times))
    assert len(times) <= took / 0.1 + 2
    await until(lambda: recorder.seen[-1][1] == 99)


def test_a_worker_that_reports_at_the_pace_of_the_records_does_not_fall_behind() -> None:
    late = (0.0, 0.01, 0.003, 0.02, 0.0, 0.015)
    due, waited = float("-inf"), []
    for number in range(60):
        reported = 100.0 + 0.25 * number + late[number % len(late)]
        recorded = max(reported, due) + 0.001
        waited.append(recorded - reported)
        due = next_due(due, recorded, 0.25)
    assert max(waited) < 0.025


@pytest.mark.parametrize(
    ("due", "now", "then"),
    [
        (float("-inf"), 5.0, 5.25),  # the first
        (5.0, 5.0, 5.25),
        (5.0, 5.125 - 1e-9, 5.25),
        (5.0, 5.125, 5.375),  # after a pause a new count begins
        (5.0, 9.0, 9.25),
        (5.0, 4.5, 4.75),  # one that was hurried does not put off those after it
    ],
)
def test_the_next_is_due_an_interval_after_the_last_was(due: float, now: float, then: float) -> None:
    assert next_due(due, now, 0.25) == pytest.approx(then)


async def test_the_newest_wins_and_a_trailing_one_comes_without_being_asked_for() -> None:
    recorder = Recorder()
    throttle = ProgressThrottle(recorder, 0.05)
    throttle.offer(progress(1))
    await until(lambda: len(recorder.seen) == 1)
    for done in (2, 3, 4):
        throttle.offer(progress(done))
    await until(lambda: len(recorder.seen) == 2)
    assert [done for _, done in recorder.seen] == [1, 4]


async def test_flushing_does_not_wait_for_the_interval() -> None:
    recorder = Recorder()
    throttle = ProgressThrottle(recorder, 3600.0)
    throttle.offer(progress(1))
    await until(lambda: len(recorder.seen) == 1)
    throttle.offer(progress(2))
    await asyncio.sleep(0.01)
    throttle.offer(progress(3))
    await throttle.flush()
    assert [done for _, done in recorder.seen] == [1, 3]
    await throttle.flush()
    assert len(recorder.seen) == 2


async def test_flushing_waits_for_what_is_being_recorded() -> None:
    recorded: list[int] = []
    gate = asyncio.Event()

    async def slow(report: Progress) -> None:
        await gate.wait()
        recorded.append(report.samples_done)

    throttle = ProgressThrottle(slow, 3600.0)
    throttle.offer(progress(1))
    await asyncio.sleep(0.01)
    throttle.offer(progress(2))
    flush = asyncio.create_task(throttle.flush())
    await asyncio.sleep(0.01)
    assert not flush.done()
    gate.set()
    await flush
    assert recorded == [1, 2]


async def test_flushing_what_was_never_offered_does_nothing() -> None:
    recorder = Recorder()
    await ProgressThrottle(recorder, 1.0).flush()
    assert recorder.seen == []


def remaining(clock: list[float], *reports: Progress) -> list[float | None]:
    estimate = RemainingTime(lambda: clock.pop(0))
    return [estimate.complete(report).remaining_seconds for report in reports]


def test_the_time_left_follows_from_what_was_seen() -> None:
    # 10 of 100 were answered by an earlier attempt: they say nothing about this one's speed.
    assert remaining([0.0, 10.0, 20.0], progress(10), progress(30), progress(60)) == [
        None,
        pytest.approx(35.0),
        pytest.approx(16.0),
    ]


def test_the_workers_own_rate_and_estimate_come_first() -> None:
    assert remaining([0.0], progress(50, samples_per_second=5.0)) == [10.0]
    assert remaining([], progress(50, remaining_seconds=3.0)) == [3.0]
    assert remaining([0.0], progress(100, samples_per_second=5.0)) == [0.0]


def test_nothing_is_told_that_is_not_known() -> None:
    loading = Progress(JobStage.LOADING_MODEL, samples_total=100)
    assert remaining([0.0, 5.0], loading, progress(5, total=0), progress(5), progress(5)) == [None] * 4


def test_the_time_left_of_a_merge_follows_from_its_bytes() -> None:
    now = [0.0]
    remaining = RemainingTime(lambda: now[0])
    assert remaining.complete(Progress(JobStage.MERGING, bytes_done=0, bytes_total=100)).remaining_seconds is None
    now[0] = 2.0
    assert remaining.complete(Progress(JobStage.MERGING, bytes_done=40, bytes_total=100)).remaining_seconds == 3.0
    # An evaluation that merged first counts its samples anew.
    answering = Progress(JobStage.GENERATING, samples_done=0, samples_total=10)
    assert remaining.complete(answering).remaining_seconds is None
    now[0] = 3.0
    answering = Progress(JobStage.GENERATING, samples_done=5, samples_total=10)
    assert remaining.complete(answering).remaining_seconds == 1.0
