"""A store that cannot be written says so until it can, without being asked to write."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.store import trouble
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.jobs.examples import queued, spec, then
from tests.scheduler.doubles import until
from tests.store.test_failures import limit_pages

LARGE = spec(system_instruction="x" * 50_000)


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
    monkeypatch.setattr(trouble, "PROBE_EVERY", 0.05)
    store = SqliteStore(tmp_path / "jobs.sqlite3", busy_timeout=0.05)
    await store.open()
    yield store
    await store.close()


async def counters(store: SqliteStore) -> list[str]:
    return [
        name for (name,) in await store._read(lambda reader: reader.execute("SELECT name FROM counters").fetchall())
    ]


async def test_a_full_disk_is_trouble_until_there_is_space_again(store: SqliteStore) -> None:
    told: list[str | None] = []
    store.when_trouble_changes(lambda: told.append(store.trouble))
    job, event = queued(1)
    await store.insert(job, event)
    assert store.trouble is None
    limit_pages(store, 0)
    with pytest.raises(StoreUnavailable):
        await store.insert(*queued(2, spec=LARGE))
    reason = store.trouble
    assert reason == (
        "the job store cannot be written: database or disk is full;"
        " free space on the disk that holds the server's state folder"
    )
    await store.append(*then(job, JobState.RUNNING))  # which fits still
    await asyncio.sleep(0.3)
    assert store.trouble == reason
    limit_pages(store, 1_000_000)
    await until(lambda: store.trouble is None)
    assert told == [reason, None]
    assert await counters(store) == ["last_order"]
    await store.insert(*queued(2, spec=LARGE))
    limit_pages(store, 0)
    with pytest.raises(StoreUnavailable):
        await store.insert(*queued(3, spec=LARGE))
    assert told == [reason, None, reason]


async def test_a_probe_that_fails_unexpectedly_is_tried_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    limit_pages(store, 0)
    with pytest.raises(StoreUnavailable):
        await store.insert(*queued(1, spec=LARGE))
    limit_pages(store, 1_000_000)
    with monkeypatch.context() as patch:
        patch.setattr("lmms_eval_grpc.store.sqlite._execute", no_memory)
        await until(lambda: store.trouble == "MemoryError")
    await until(lambda: store.trouble is None)


async def test_a_file_that_is_held_by_another_process_once_is_no_trouble(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "PROBE_EVERY", 2.0)  # so that the file is free again by then
    told: list[str | None] = []
    store.when_trouble_changes(lambda: told.append(store.trouble))
    other = sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(*(store.insert(*queued(order)) for order in (1, 2)), return_exceptions=True)
    other.execute("ROLLBACK")
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
    await until(lambda: store._trouble._probing is None)
    assert told == []
    monkeypatch.setattr(trouble, "PROBE_EVERY", 0.05)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.insert(*queued(1))
    assert store.trouble is None
    await until(lambda: store.trouble is not None)
    assert "another process holds the database; end it" in (store.trouble or "")
    other.execute("ROLLBACK")
    other.close()
    await until(lambda: store.trouble is None)


async def test_what_the_write_itself_is_to_blame_for_is_no_trouble(store: SqliteStore) -> None:
    await store.insert(*queued(1))
    with pytest.raises(ValueError, match="already"):
        await store.insert(*queued(1))
    assert store.trouble is None
    assert store._trouble._probing is None


async def test_a_store_in_trouble_can_be_closed_and_opened_again(store: SqliteStore) -> None:
    limit_pages(store, 0)
    with pytest.raises(StoreUnavailable):
        await store.insert(*queued(1, spec=LARGE))
    await store.close()
    assert store._trouble._probing is None
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.insert(*queued(1))
    assert store._trouble._probing is None
    assert store.trouble is None
    await store.open()
    await store.insert(*queued(1, spec=LARGE))
    assert store.trouble is None
