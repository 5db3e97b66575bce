"""Housekeeping in a state folder whose server does not run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lmms_eval_grpc.scheduler import Journal, SchedulerSettings
from lmms_eval_grpc.scheduler.retention import Collected, Retention
from lmms_eval_grpc.server.state_dir import JOBS_NAME, STORE_NAME, ServerStartError, StateLock
from lmms_eval_grpc.store.sqlite import SqliteStore


def collect_garbage(
    state_dir: Path, keep: int | None, older_than: float | None, *, dry_run: bool, max_finished_jobs: int
) -> Collected:
    """See :meth:`Retention.collect`; ``max_finished_jobs`` is what the folder's server is configured to keep.

    Raises:
        ServerStartError: it is no state folder, or a server has it.
        StoreUnavailable: the store cannot be used.
    """
    folder = state_dir.absolute()
    if not (folder / STORE_NAME).is_file():
        raise ServerStartError(f"state_dir: {folder} holds no {STORE_NAME}, so it is not the state folder of a server")
    settings = SchedulerSettings(folder / JOBS_NAME, max_finished_jobs=max_finished_jobs)
    lock = StateLock(folder)
    lock.acquire()
    try:
        return asyncio.run(_collect(SqliteStore(folder / STORE_NAME), settings, keep, older_than, dry_run))
    finally:
        lock.release()


async def _collect(
    store: SqliteStore, settings: SchedulerSettings, keep: int | None, older_than: float | None, dry_run: bool
) -> Collected:
    await store.open()
    try:
        retention = Retention(store, Journal(store), lambda job_id: settings.jobs_dir / job_id, settings)
        return await retention.collect(keep, older_than, dry_run=dry_run)
    finally:
        await store.close()
