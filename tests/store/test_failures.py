"""A store that cannot write accepts nothing, breaks nothing and recovers."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.jobs.examples import queued, spec, then


def limit_pages(store: SqliteStore, pages: int) -> None:
    """Lets the database grow to so many pages beyond its present size (the limit belongs to the writing connection)."""
    assert store._writer is not None
    connection = store._writer._connection
    (present,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {present + pages}")


async def test_a_full_disk_refuses_what_does_not_fit_and_keeps_the_rest(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    before, event = queued(1)
    await store.insert(before, event)
    limit_pages(store, 4)
    large = spec(system_instruction="x" * 50_000)
    outcomes = await asyncio.gather(
        *(store.insert(*queued(order, spec=large if order % 2 else spec())) for order in range(2, 8)),
        return_exceptions=True,
    )
    refused = [order for order, outcome in zip(range(2, 8), outcomes, strict=True) if outcome is not None]
    assert refused == [3, 5, 7]
    for outcome in outcomes[1::2]:
        assert isinstance(outcome, StoreUnavailable)
        assert "free space" in str(outcome)
    kept = await store.page(JobFilter(), before_order=None, size=10, full=True)
    assert [job.order for job in kept] == [6, 4, 2, 1]
    assert await store.events("job-3") == []

    limit_pages(store, 1_000_000)
    await store.insert(*queued(3, spec=large))
    running, event = then(before, JobState.RUNNING)
    await store.append(running, event)
    assert await store.get(before.job_id) == running
    await store.close()


async def test_a_refused_event_leaves_the_job_as_it_was(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    job, event = queued(1)
    await store.insert(job, event)
    limit_pages(store, 0)
    running, event = then(job, JobState.RUNNING, cancel_reason="x" * 100_000)
    with pytest.raises(StoreUnavailable, match="free space"):
        await store.append(running, event)
    assert await store.get(job.job_id) == job
    limit_pages(store, 1_000_000)
    await store.append(running, event)
    assert await store.get(job.job_id) == running
    await store.close()


async def test_a_locked_file_refuses_until_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = SqliteStore(path, busy_timeout=0.05)
    await store.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="another process holds the database"):
        await store.insert(*queued(1))
    other.execute("ROLLBACK")
    other.close()
    await store.insert(*queued(1))
    assert [job.order for job in (await store.unfinished()).jobs] == [1]
    await store.close()


async def test_reading_goes_on_while_writing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = SqliteStore(path, busy_timeout=0.05)
    await store.open()
    await store.insert(*queued(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert len((await store.unfinished()).jobs) == 1
    other.close()
    await store.close()


@pytest.mark.parametrize("damage", ["not a database", "torn"])
async def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = SqliteStore(path)
    await store.open()
    for order in range(1, 50):
        await store.insert(*queued(order, spec=spec(system_instruction="x" * 2000)))
    await store.close()
    content = path.read_bytes()
    if damage == "not a database":
        path.write_bytes(b"PK\x03\x04" + content[4:])
    else:
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreUnavailable) as refused:
        await SqliteStore(path).open()
    assert str(path) in str(refused.value)
    assert "the file is damaged" in str(refused.value)
    assert "move it away" in str(refused.value)


async def test_a_large_file_is_opened_without_being_read_in_full(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = SqliteStore(path)
    await store.open()
    await store.insert(*queued(1))
    await store.insert(*queued(2, spec=spec(system_instruction="x" * 200_000)))
    await store.close()
    content = bytearray(path.read_bytes())
    # Pages in the middle of the long text: nothing needs them to find the others.
    content[100_000:110_000] = b"\xff" * 10_000
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="the file is damaged"):
        await SqliteStore(path).open()
    unchecked = SqliteStore(path, largest_checked=100_000)
    await unchecked.open()
    first = await unchecked.get("job-1")
    assert first is not None
    with pytest.raises(StoreUnavailable, match="the file is damaged"):
        await unchecked.get("job-2")
    await unchecked.close()


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "jobs.sqlite3"
    with pytest.raises(StoreUnavailable, match="cannot open the job store"):
        await SqliteStore(path).open()
    folder = tmp_path / "folder.sqlite3"
    folder.mkdir()
    with pytest.raises(StoreUnavailable, match="readable and writable"):
        await SqliteStore(folder).open()


async def test_what_clients_are_told_does_not_name_the_servers_files(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = SqliteStore(path, busy_timeout=0.0)
    await store.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable) as refused:
        await store.insert(*queued(1))
    assert str(tmp_path) not in str(refused.value)
    other.close()
    await store.close()


async def test_what_is_too_large_for_the_file_is_refused_for_good_and_nothing_else_is(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    assert store._writer is not None
    # Of SQLite's own limit, a thousand million bytes, a part.
    store._writer._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    job, event = queued(1)
    await store.insert(job, event)
    running, event = then(job, JobState.RUNNING, cancel_reason="x" * 200_000)
    with pytest.raises(ValueError, match="the job store cannot hold it"):
        await store.append(running, event)
    assert await store.get(job.job_id) == job
    await store.append(*then(job, JobState.RUNNING))
    await store.close()
