"""Stores to test: every implementation goes through the same conformance suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lmms_eval_grpc.store.base import JobStore
from lmms_eval_grpc.store.sqlite import SqliteStore

StoreFactory = Callable[[Path], JobStore]

STORES: dict[str, StoreFactory] = {"sqlite": lambda folder: SqliteStore(folder / "jobs.sqlite3")}


@pytest.fixture(params=sorted(STORES))
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], JobStore]:
    """Makes a store, not yet open, over the same durable place each time."""
    factory = STORES[request.param]
    return lambda: factory(tmp_path)


@pytest.fixture
async def store(new_store: Callable[[], JobStore]) -> AsyncIterator[JobStore]:
    """An open, empty store."""
    opened = new_store()
    await opened.open()
    yield opened
    await opened.close()
