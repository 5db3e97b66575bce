"""A record that this release cannot read is nobody's trouble but its own."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import JobUnreadable, RequestIdConflict
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.jobs.examples import progress, queued, result, then


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Jobs 1 to 9: 3, 4 and 7 were written by a later release, of which 4 has ended; so has 5."""
    opened = SqliteStore(tmp_path / "jobs.sqlite3")
    await opened.open()
    for order in range(1, 10):
        job, event = queued(order, request_id=f"request-{order}")
        await opened.insert(job, event)
        for body in (JobState.RUNNING, progress(order)):
            job, event = then(job, body)
            await opened.append(job, event)
        if order in (4, 5):
            await opened.append(*then(job, JobState.COMPLETED, result=result()))
    rewrite(tmp_path, "jobs", "job", 3, '"generating"', '"aggregating"')
    rewrite(tmp_path, "jobs", "result", 4, '"evaluation_result"', '"a_later_result"')
    rewrite(tmp_path, "jobs", "job", 7, '"running"', '"dreaming"')
    yield opened
    await opened.close()


def rewrite(folder: Path, table: str, column: str, position: int, old: str, new: str) -> None:
    """Has a row say what a later release would."""
    with sqlite3.connect(folder / "jobs.sqlite3") as connection:
        changed = connection.execute(
            f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE position = ? AND {column} LIKE ?",
            (old, new, position, f"%{old}%"),
        )
    assert changed.rowcount == 1
    connection.close()


def orders(jobs: list[Job]) -> list[int]:
    return [job.order for job in jobs]


async def test_unfinished_jobs_are_told_apart(store: SqliteStore) -> None:
    found = await store.unfinished()
    assert orders(found.jobs) == [1, 2, 6, 8, 9]
    assert found.unreadable == ["job-3", "job-7"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages_are_full_although_some_jobs_are_left_out(store: SqliteStore, size: int) -> None:
    seen: list[int] = []
    before: int | None = None
    while jobs := await store.page(JobFilter(), before_order=before, size=size, full=True):
        seen.extend(orders(jobs))
        assert len(jobs) == min(size, 6 - len(seen) + len(jobs))
        before = jobs[-1].order
    assert seen == [9, 8, 6, 5, 2, 1]


async def test_a_basic_page_needs_no_result(store: SqliteStore) -> None:
    assert orders(await store.page(JobFilter(), before_order=None, size=9, full=False)) == [9, 8, 6, 5, 4, 2, 1]


async def test_who_asks_for_one_is_told_that_it_cannot_be_read(store: SqliteStore) -> None:
    for order in (3, 4, 7):
        with pytest.raises(JobUnreadable, match=f"job-{order}.*release that wrote it"):
            await store.get(f"job-{order}")
        with pytest.raises(JobUnreadable):
            await store.find_request(f"request-{order}")
    with pytest.raises(RequestIdConflict):
        await store.insert(*queued(10, request_id="request-3"))


async def test_an_event_that_cannot_be_read_is_told_too(store: SqliteStore, tmp_path: Path) -> None:
    rewrite(tmp_path, "events", "body", 1, '"progress"', '"a_later_event"')
    assert await store.get("job-1") is not None
    with pytest.raises(JobUnreadable, match="job-1"):
        await store.events("job-1")


async def test_retention_removes_them_like_others(store: SqliteStore) -> None:
    assert await store.expired(keep=0, ended_before=None) == ["job-4", "job-5"]
    await store.remove(["job-4"])
    assert await store.get("job-4") is None


async def test_the_log_names_each_once(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await store.page(JobFilter(), before_order=None, size=9, full=False)
    assert len(caplog.records) == 2
    assert any("job-3" in message and "aggregating" in message for message in caplog.messages)
