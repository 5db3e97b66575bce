"""Writers that wait at the same time share a commit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.store.sqlite import SqliteStore
from lmms_eval_grpc.store.writer import GroupWriter
from tests.jobs.examples import queued
from tests.scheduler.doubles import PATIENCE


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER UNIQUE)")
    return connection


def put(number: int):  # type: ignore[no-untyped-def]
    def operation(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return operation


def numbers(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


async def test_what_waits_during_one_commit_goes_into_the_next_together(tmp_path: Path) -> None:
    writer = GroupWriter(connect(tmp_path / "db"))
    reached, go_on = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        reached.set()
        go_on.wait(30)

    first = asyncio.create_task(writer.write(slow))
    await asyncio.to_thread(reached.wait, 30)
    others = [asyncio.create_task(writer.write(put(number))) for number in range(100)]
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(first, *others) == [None, *range(100)]
    assert writer.commits == 2
    await writer.close()


async def test_concurrent_submissions_take_few_commits(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    await asyncio.gather(*(store.insert(*queued(order)) for order in range(1, 401)))
    assert store.commits < 100
    assert len(await store.page(JobFilter(), before_order=None, size=1000, full=False)) == 400
    await store.close()


async def test_an_operation_that_raises_is_undone_alone(tmp_path: Path) -> None:
    writer = GroupWriter(connect(tmp_path / "db"))

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO numbers VALUES (1000)")
        raise KeyError("in the middle")

    outcomes = await asyncio.gather(
        writer.write(put(1)), writer.write(half), writer.write(put(1)), writer.write(put(2)), return_exceptions=True
    )
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], KeyError)
    assert isinstance(outcomes[2], sqlite3.IntegrityError)
    assert outcomes[3] == 2
    await writer.close()
    assert numbers(tmp_path / "db") == [1, 2]


async def test_a_lost_transaction_is_tried_again_one_by_one(tmp_path: Path) -> None:
    writer = GroupWriter(connect(tmp_path / "db"))

    def ends_the_transaction(connection: sqlite3.Connection) -> None:
        # As SQLite itself does when the disk is full.
        connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    blocked, go_on = threading.Event(), threading.Event()

    def block(connection: sqlite3.Connection) -> None:
        blocked.set()
        go_on.wait(30)

    first = asyncio.create_task(writer.write(block))
    await asyncio.to_thread(blocked.wait, 30)
    together = [
        asyncio.create_task(writer.write(operation)) for operation in (put(1), put(2), ends_the_transaction, put(3))
    ]
    await asyncio.sleep(0)
    go_on.set()
    outcomes = await asyncio.gather(*together, return_exceptions=True)
    await first
    assert [outcomes[0], outcomes[1], outcomes[3]] == [1, 2, 3]
    assert isinstance(outcomes[2], sqlite3.OperationalError)
    await writer.close()
    assert numbers(tmp_path / "db") == [1, 2, 3]


async def test_a_closed_writer_refuses(tmp_path: Path) -> None:
    writer = GroupWriter(connect(tmp_path / "db"))
    await writer.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await writer.write(put(1))


async def test_an_observer_that_fails_stops_no_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(seconds: float, writes: int) -> None:
        raise ValueError("a bug in what only counts")

    writer = GroupWriter(connect(tmp_path / "db"), fail)
    async with asyncio.timeout(PATIENCE):
        assert [await writer.write(put(number)) for number in (1, 2)] == [1, 2]
    await writer.close()
    assert numbers(tmp_path / "db") == [1, 2]
    assert "a bug in what only counts" in caplog.text


async def test_a_file_that_another_holds_is_not_waited_for_once_per_write(tmp_path: Path) -> None:
    path = tmp_path / "db"
    connection = connect(path)
    connection.execute("PRAGMA busy_timeout = 50")
    begun: list[str] = []
    connection.set_trace_callback(lambda statement: begun.append(statement) if statement.startswith("BEGIN") else None)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = GroupWriter(connection)
    outcomes = await asyncio.gather(*(writer.write(put(number)) for number in range(100)), return_exceptions=True)
    assert all(isinstance(outcome, sqlite3.OperationalError) for outcome in outcomes)
    assert len(begun) < 50
    other.close()
    assert await writer.write(put(1)) == 1
    await writer.close()
