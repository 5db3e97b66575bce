"""Workers that hang, each in its own way: found, asked where they are, and killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.executors.watchdog import Condition, Patience, Watchdog
from lmms_eval_grpc.jobs.events import Completed, Failed
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode, JobStage, Progress
from tests.executors.conftest import Jobs, descendants, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND = 6.0
"""Three heartbeats: a busy machine may delay one."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tasks_dir: Path) -> AsyncIterator[LocalExecutor]:
    """An executor that waits a few seconds for a sign of life, and for progress only where a job says so."""
    settings = LocalExecutorSettings(devices=("cpu",) * 4, include_paths=(tasks_dir,), heartbeat_timeout=BOUND)
    made = LocalExecutor(settings)
    await made.start()
    await wait_until(lambda: made.warm)
    yield made
    await made.stop()


async def test_workers_that_hang_are_killed_and_their_logs_end_with_where(jobs: Jobs) -> None:
    tasks = ("fall_asleep", "stop_itself", "backtrack_for_ever")
    before = set(descendants())
    specs = [jobs.spec(task, stall_timeout=BOUND if task == "fall_asleep" else None) for task in tasks]
    ended = await asyncio.gather(jobs.run(jobs.spec("well_behaved", stall_timeout=BOUND)), *map(jobs.run, specs))
    (well_behaved, _), *hung = ended
    assert isinstance(well_behaved[-1], Completed)
    errors: dict[str, JobError] = {}
    for task, (reports, _) in zip(tasks, hung, strict=True):
        assert isinstance(reports[-1], Failed), task
        errors[task] = reports[-1].error
    assert {error.code for error in errors.values()} == {JobErrorCode.STALLED}
    assert {task: error.reason for task, error in errors.items()} == {
        "fall_asleep": "NO_PROGRESS",
        "stop_itself": "NO_HEARTBEAT",
        "backtrack_for_ever": "NO_HEARTBEAT",
    }
    asleep, stopped, busy = (errors[task] for task in tasks)
    assert asleep.details["stage"] == "preparing", "the task's functions are tried on its first document"
    assert asleep.details["stall_timeout_seconds"] == "6"
    assert "in fall_asleep" in asleep.log_tail, asleep.log_tail
    assert stopped.details["state"] == "T"
    assert "stopped by a signal" in stopped.message
    # The interpreter runs no Python code meanwhile, and says all the same where it is.
    assert "in backtrack_for_ever" in busy.log_tail, busy.log_tail
    assert set(descendants()) - before == set()


async def test_a_hang_is_nothing_that_a_cancellation_waits_for(jobs: Jobs) -> None:
    execution, _ = await jobs.start(jobs.spec("fall_asleep", stall_timeout=3600.0))
    await execution.cancel("")
    async for report in execution.reports():
        last = report
    assert not isinstance(last, Failed)


def generating(done: int, **more: object) -> Progress:
    return Progress(JobStage.GENERATING, "digits", done, 100, **more)  # type: ignore[arg-type]


async def watch(dog: Watchdog, *conditions: Condition) -> JobError:
    """What the watchdog says of a worker that looks so, the last for ever."""
    left = list(conditions)

    async def look() -> Condition:
        return left.pop(0) if len(left) > 1 else left[0]

    async with asyncio.timeout(30):
        return await dog.wait_for_hang(look)


async def test_what_moves_or_reads_does_not_hang() -> None:
    dog = Watchdog(Patience(None, 0.2))
    reading = [Condition("S", count << 21) for count in range(20)]
    watching = asyncio.create_task(watch(dog, *reading, Condition("S", 0)))
    for step in range(30):
        await asyncio.sleep(0.02)
        dog.beat(step)
        assert not watching.done()
    for step in range(30):
        await asyncio.sleep(0.02)
        dog.progressed(generating(step))
        assert not watching.done()
    # From here on it is only read, as long as that lasts; then nothing.
    error = await watching
    assert error.reason == "NO_PROGRESS"
    assert error.details["stage"] == "generating"
    assert "29 of 100 samples" in error.message


async def test_what_is_read_by_one_short_lived_process_after_the_other_counts() -> None:
    """The counter of a process goes with it, so that of all together falls."""
    dog = Watchdog(Patience(None, 0.2))
    reading = [Condition("S", mib << 20) for _ in range(10) for mib in (1, 3)]
    looks = 0

    async def look() -> Condition:
        nonlocal looks
        looks += 1
        return reading.pop(0) if len(reading) > 1 else reading[0]

    async with asyncio.timeout(60):
        await dog.wait_for_hang(look)
    assert looks > 20


async def test_a_report_that_tells_nothing_new_is_no_progress_and_a_heartbeat_is_none_either() -> None:
    dog = Watchdog(Patience(None, 0.2))
    watching = asyncio.create_task(watch(dog, Condition("S", 0)))
    for tick in range(200):
        await asyncio.sleep(0.01)
        dog.heard()
        dog.beat(7)
        dog.progressed(generating(3, samples_per_second=1.0 / (tick + 1)))
        if watching.done():
            break
    assert (await watching).reason == "NO_PROGRESS"


async def test_a_worker_that_waits_in_the_kernel_is_left_alone_until_it_does_not() -> None:
    error = await watch(Watchdog(Patience(0.05, None)), *[Condition("D", 0)] * 10, Condition("S", 0))
    assert error.reason == "NO_HEARTBEAT"
    assert error.details["state"] == "S"


async def test_without_bounds_nothing_ever_hangs() -> None:
    watching = asyncio.create_task(watch(Watchdog(Patience(None, None)), Condition("T", 0)))
    await asyncio.sleep(0.05)
    assert not watching.done()
    watching.cancel()
