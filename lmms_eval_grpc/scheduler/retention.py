"""Giving up jobs that ended long ago, their rows and their folders, and what crashes have left among the folders."""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.secrets import clear
from lmms_eval_grpc.scheduler import leftovers
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.settings import SchedulerSettings
from lmms_eval_grpc.store.base import JobStore

_LOG = logging.getLogger(__name__)
_MAX_AT_ONCE = 64
"""Jobs removed in one step: other writes come in between."""
_LONGEST_WAIT = 600.0
"""Seconds between two looks for jobs whose time has come although none has ended."""
_LEAST_AGE = 60.0
"""Seconds by the monotonic clock before which no job is too old, whatever the wall clock says, unless the settings ask
for less."""
_LEFTOVERS_EVERY = 86400.0
"""Seconds between two looks for what crashes have left behind; the first one is at the start."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed, or would be."""

    job_ids: tuple[str, ...] = ()
    """Ended jobs, with their folders. Those that ended first come first."""
    leftovers: tuple[str, ...] = ()
    """Files and folders without a job, and drafts of writes that never ended: paths below the jobs' folder's parent."""
    freed_bytes: int = 0


class Retention:
    """Removes ended jobs beyond the number and the age that the settings allow, one sweep at a time."""

    def __init__(
        self,
        store: JobStore,
        journal: Journal,
        job_dir: Callable[[str], Path],
        settings: SchedulerSettings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._journal = journal
        self._job_dir = job_dir
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._began = monotonic()
        self._ended_at: dict[str, float] = {}
        self._just_ended: list[str] = []
        self._kept_for_folder: set[str] = set()
        self._sweeping = asyncio.Lock()
        self._looked_for_leftovers: float | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweeps now and whenever it is worth it, until closed."""
        self._wanted.set()
        self._task = asyncio.get_running_loop().create_task(self._work())

    def ended(self, job_id: str) -> None:
        """Has a sweep made soon: a job has ended, and nothing of its worker is left."""
        self._ended_at[job_id] = self._monotonic()
        self._just_ended.append(job_id)
        self._wanted.set()

    async def close(self) -> None:
        """Ends the work between two steps."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def sweep(self) -> int:
        """Removes what is to be removed now and returns how many jobs that were. Raises StoreUnavailable."""
        async with self._sweeping:
            crowded_out = await self._store.expired(keep=self._settings.max_finished_jobs, ended_before=None)
            expired = list(dict.fromkeys([*crowded_out, *await self._too_old()]))
            removed = 0
            for start in range(0, len(expired), _MAX_AT_ONCE):
                removed += len(await self._remove(expired[start : start + _MAX_AT_ONCE]))
            return removed

    async def collect(self, keep: int | None, older_than: float | None, *, dry_run: bool = False) -> Collected:
        """Removes ended jobs that somebody wants removed now, and leftovers.

        Args:
            keep: how many ended jobs to keep whatever their age, newest first. None: no more than are younger than
                ``older_than`` if that is given, otherwise as many as the settings say.
            older_than: seconds; jobs that ended less long ago are kept. None: age does not matter.
            dry_run: remove nothing, only tell.

        Raises:
            StoreUnavailable: not all could be looked at or removed.
        """
        async with self._sweeping:
            job_ids, freed = await self._give_up(keep, older_than, dry_run)
            found = await self._leftovers(dry_run, without=job_ids)
            names = tuple(str(leftover.path.relative_to(self._settings.jobs_dir.parent)) for leftover in found)
            return Collected(tuple(job_ids), names, freed + sum(leftover.size for leftover in found))

    async def _give_up(self, keep: int | None, older_than: float | None, dry_run: bool) -> tuple[list[str], int]:
        if keep is None:
            keep = self._settings.max_finished_jobs if older_than is None else 0
        chosen = await self._store.expired(keep=keep, ended_before=None)
        if older_than is not None:
            old = set(await self._store.expired(keep=None, ended_before=self._clock() - older_than))
            chosen = [job_id for job_id in chosen if job_id in old]
        given_up: list[str] = []
        freed = 0
        for start in range(0, len(chosen), _MAX_AT_ONCE):
            job_ids = chosen[start : start + _MAX_AT_ONCE]
            sizes = await asyncio.to_thread(
                lambda job_ids: {job_id: leftovers.size_of(self._job_dir(job_id)) for job_id in job_ids}, job_ids
            )
            removed = job_ids if dry_run else await self._remove(job_ids)
            given_up.extend(removed)
            freed += sum(sizes[job_id] for job_id in removed)
        return given_up, freed

    async def _leftovers(self, dry_run: bool, without: Collection[str] = ()) -> list[leftovers.Leftover]:
        """What crashes have left behind, removed unless this is a dry run; not in the folders of these jobs."""
        jobs_dir = self._settings.jobs_dir
        folders = await asyncio.to_thread(leftovers.list_folders, jobs_dir)
        folders = [name for name in folders if name not in set(without)]
        states = await self._store.states()
        find = functools.partial(leftovers.find_leftovers, jobs_dir, folders, states, mark=not dry_run)
        found = await asyncio.to_thread(find)
        if dry_run:
            return found
        return await asyncio.to_thread(lambda: [one for one in found if leftovers.remove_leftover(one)])

    async def _clear_leftovers(self) -> None:
        """Once a day: few crashes leave anything, and their leftovers are in nobody's way."""
        now, last = self._monotonic(), self._looked_for_leftovers
        if last is not None and now - last < _LEFTOVERS_EVERY:
            return
        async with self._sweeping:
            removed = await self._leftovers(dry_run=False)
        self._looked_for_leftovers = now
        if removed:
            _LOG.info("removed %d files and folders that crashes had left behind", len(removed))

    async def _too_old(self) -> list[str]:
        """Jobs that have been kept long enough. One that ended just now is none of them, though the wall clock may have
        been put forward since; when those of an earlier server ended is taken to be when this one began."""
        ttl = self._settings.finished_job_ttl
        now = self._monotonic()
        least = _LEAST_AGE if ttl is None else min(ttl, _LEAST_AGE)
        self._ended_at = {job_id: at for job_id, at in self._ended_at.items() if now - at < least}
        if ttl is None or now - self._began < least:
            return []
        old = await self._store.expired(keep=None, ended_before=self._clock() - ttl)
        return [job_id for job_id in old if job_id not in self._ended_at]

    async def _remove(self, job_ids: Sequence[str]) -> list[str]:
        with self._journal.withdraw(job_ids):
            # Folders first: were this interrupted, the rows would have both removed next time. For the same reason a
            # row stays while its folder cannot be removed.
            removed = await asyncio.to_thread(self._remove_folders, job_ids)
            await self._store.remove(removed)
        return removed

    def _remove_folders(self, job_ids: Sequence[str]) -> list[str]:
        """Removes the folders of jobs and returns the ids of those that have none any more."""
        removed = []
        for job_id in job_ids:
            folder = self._job_dir(job_id)
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                if job_id not in self._kept_for_folder:
                    self._kept_for_folder.add(job_id)
                    _LOG.warning("job %s stays until its folder %s can be removed: %s", job_id, folder, error)
                continue
            self._kept_for_folder.discard(job_id)
            removed.append(job_id)
        return removed

    async def _tidy_up(self) -> None:
        """Removes what jobs that have just ended leave behind and nobody needs any more: their secrets, and checkpoints
        that they merged for their attempts, which a worker that was killed has not removed and which may be as large as
        a model."""
        job_ids, self._just_ended = self._just_ended, []
        for job_id in job_ids:
            await asyncio.to_thread(scratch.remove_merged, self._job_dir(job_id))
            await asyncio.to_thread(clear, self._job_dir(job_id))

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
                await self._tidy_up()
                removed = await self.sweep()
                await self._clear_leftovers()
            except StoreUnavailable as error:
                _LOG.warning("ended jobs are kept for now: %s", error)
                continue
            except Exception:
                _LOG.exception("could not remove ended jobs")
                continue
            if removed:
                _LOG.info("removed %d ended jobs", removed)
