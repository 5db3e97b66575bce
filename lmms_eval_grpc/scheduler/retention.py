"""Giving up jobs that ended long ago: their rows and their folders."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.settings import SchedulerSettings
from lmms_eval_grpc.store.base import JobStore

_LOG = logging.getLogger(__name__)
_MAX_AT_ONCE = 64
"""Jobs removed in one step: other writes come in between."""
_LONGEST_WAIT = 600.0
"""Seconds between two looks for jobs whose time has come although none has ended."""


class Retention:
    """Removes ended jobs beyond the number and the age that the settings allow, one sweep at a time."""

    def __init__(
        self,
        store: JobStore,
        journal: Journal,
        job_dir: Callable[[str], Path],
        settings: SchedulerSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._journal = journal
        self._job_dir = job_dir
        self._settings = settings
        self._clock = clock
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweeps now and whenever it is worth it, until closed."""
        self.request()
        self._task = asyncio.get_running_loop().create_task(self._work())

    def request(self) -> None:
        """Has a sweep made soon: a job has ended."""
        self._wanted.set()

    async def close(self) -> None:
        """Ends the work between two steps."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def sweep(self) -> int:
        """Removes what is to be removed now and returns how many jobs that were. Raises StoreUnavailable."""
        ttl = self._settings.finished_job_ttl
        before = None if ttl is None else self._clock() - ttl
        expired = await self._store.expired(keep=self._settings.max_finished_jobs, ended_before=before)
        for start in range(0, len(expired), _MAX_AT_ONCE):
            job_ids = expired[start : start + _MAX_AT_ONCE]
            # Folders first: were this interrupted, the rows would have both removed next time.
            await asyncio.to_thread(_remove_folders, [self._job_dir(job_id) for job_id in job_ids])
            await self._store.remove(job_ids)
            self._journal.forget(job_ids)
        return len(expired)

    async def _work(self) -> None:
        ttl = self._settings.finished_job_ttl
        pause = None if ttl is None else min(max(ttl, 1.0), _LONGEST_WAIT)
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), pause)
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                removed = await self.sweep()
            except StoreUnavailable as error:
                _LOG.warning("ended jobs are kept for now: %s", error)
                continue
            except Exception:
                _LOG.exception("could not remove ended jobs")
                continue
            if removed:
                _LOG.info("removed %d ended jobs", removed)


def _remove_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            _LOG.warning("could not remove a job's folder %s: %s", folder, error)
