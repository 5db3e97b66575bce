"""What a watcher may rely on, whatever the load and however often it comes back."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.jobs.events import EventBody, JobEvent
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.journal import JobLog, Journal
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.jobs.examples import progress, submitted, task_result
from tests.scheduler.doubles import PATIENCE


@dataclass
class Watcher:
    """Follows a log as the server's WatchJob does, losing its place now and then but for its cursor."""

    log: JobLog
    chance: random.Random
    cursor: int = 0
    seen: list[JobEvent] = field(default_factory=list)

    async def follow(self) -> None:
        while True:
            for event in self.log.after(self.cursor):
                assert event.sequence > self.cursor
                self.seen.append(event)
                self.cursor = event.sequence
                if self.chance.random() < 0.2:
                    await asyncio.sleep(self.chance.choice([0, 0, 0.001, 0.003]))
                if self.chance.random() < 0.1:
                    break  # The connection is lost in the middle of a batch.
            if self.log.job.state.ended and self.cursor == self.log.job.sequence:
                return
            assert await self.log.wait_beyond(self.cursor, PATIENCE)


def lasting(events: list[JobEvent]) -> list[tuple[int, EventBody]]:
    return [(event.sequence, event.body) for event in events if not event.supersedable]


async def lives(journal: Journal, order: int, steps: str, watchers: int, seed: int) -> None:
    """One job that reports progress (p) and task results (t), and its watchers, of which each sees all that counts."""
    chance = random.Random(seed)
    job = await journal.create(submitted(order))
    log = await journal.log(job.job_id)
    following: list[tuple[Watcher, asyncio.Task[None]]] = []

    def join() -> None:
        watcher = Watcher(log, random.Random(chance.random()))
        following.append((watcher, asyncio.create_task(watcher.follow())))

    await journal.enter(job.job_id, JobState.RUNNING)
    for number, step in enumerate(steps):
        if len(following) < watchers:
            join()
        await journal.record(job.job_id, progress(number) if step == "p" else task_result(f"task-{number}"))
    await journal.enter(job.job_id, JobState.COMPLETED)
    while len(following) < watchers:
        join()  # One that comes when all is over sees the same.
    await asyncio.gather(*(task for _, task in following))
    expected = lasting(log.after(0))
    for watcher, _ in following:
        assert lasting(watcher.seen) == expected
        assert watcher.seen[-1].terminal


@settings(max_examples=15, deadline=None)
@given(steps=st.text("pt", max_size=30), seed=st.integers(0, 2**32))
def test_every_watcher_sees_every_lasting_event_exactly_once(tmp_path_factory: object, steps: str, seed: int) -> None:
    folder: Path = tmp_path_factory.mktemp("watching")  # type: ignore[attr-defined]

    async def play() -> None:
        store = SqliteStore(folder / "jobs.sqlite3")
        await store.open()
        journal = Journal(store)
        await asyncio.gather(*(lives(journal, order, steps, 3, seed + order) for order in range(1, 4)))
        await store.close()

    asyncio.run(play())


async def test_gapless_under_load(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    chance = random.Random(7)
    await asyncio.gather(
        *(
            lives(journal, order, "".join(chance.choices("pt", [4, 1], k=60)), watchers=20, seed=order)
            for order in range(1, 11)
        )
    )
    await store.close()


async def test_a_snapshot_and_its_cursor_belong_together(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    job = await journal.create(submitted(1))
    log = await journal.log(job.job_id)
    await journal.enter(job.job_id, JobState.RUNNING)
    names = [f"task-{number}" for number in range(60)]

    async def write() -> None:
        for name in names:
            await journal.record(job.job_id, task_result(name))

    async def join_and_follow() -> list[str]:
        snapshot, cursor = log.job, log.job.sequence  # No await in between.
        told = [each.task for each in snapshot.task_results]
        while len(told) < len(names):
            assert await log.wait_beyond(cursor, PATIENCE)
            for event in log.after(cursor):
                told.append(event.body.task)  # type: ignore[union-attr]
                cursor = event.sequence
        return told

    async def join_late(delay: float) -> list[str]:
        await asyncio.sleep(delay)
        return await join_and_follow()

    _, *told = await asyncio.gather(write(), *(join_late(number / 1000) for number in range(40)))
    assert all(each == names for each in told)
    await store.close()


async def test_a_watcher_that_never_reads_holds_nobody_up(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    job = await journal.create(submitted(1))
    log = await journal.log(job.job_id)
    await journal.enter(job.job_id, JobState.RUNNING)
    forever = asyncio.Event()

    async def stalled() -> None:
        log.after(0)
        await forever.wait()  # As in a write to a client that does not read.

    idle = [asyncio.create_task(stalled()) for _ in range(200)]
    lively = Watcher(log, random.Random(1), cursor=0)
    following = asyncio.create_task(lively.follow())
    began = time.monotonic()
    for number in range(300):
        await journal.record(job.job_id, progress(number))
    await journal.enter(job.job_id, JobState.COMPLETED)
    await asyncio.wait_for(following, PATIENCE)
    assert time.monotonic() - began < PATIENCE
    # What the stalled ones have not read is not kept for them either.
    assert len(log.after(0)) == 4
    assert not any(task.done() for task in idle)
    for task in idle:
        task.cancel()
    await asyncio.gather(*idle, return_exceptions=True)
    await store.close()
