"""What someone who watches a whole server knows of it: its queue, its jobs, and how far they are. No terminal here.

The watches only say that something changed, and how far jobs are; what the queue looks like then is asked for, so that
the picture is always one that the server has drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any

from lmms_eval_grpc.cli.following import JobView
from lmms_eval_grpc.client import AsyncEvalClient, EvalServiceError, JobNotFound
from lmms_eval_grpc.v1 import job_pb2

WAITING_SHOWN = 50
"""Jobs of the queue that are looked at; it may be thousands long."""
RECENT_SHOWN = 20
"""Ended jobs that are looked at."""
_PAUSE = 0.25
"""Seconds between two questions after the queue."""


class Board:
    """A server's state, kept up to date while `follow` runs."""

    def __init__(self, client: AsyncEvalClient, changed: Callable[[], None]) -> None:
        """`changed` is called after every change, on the event loop."""
        self.queue: dict[str, Any] | None = None
        """As `get_queue_status` returns it. None until it is known."""
        self.running: dict[str, JobView] = {}
        """By job."""
        self.recent: list[job_pb2.Job] = []
        """Ended jobs, the last to end first."""
        self._client = client
        self._changed = changed
        self._jobs: dict[str, job_pb2.Job] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._stale = asyncio.Event()

    def job(self, job_id: str) -> job_pb2.Job | None:
        """What was submitted; None while it is not known yet."""
        return self._jobs.get(job_id)

    async def follow(self) -> None:
        """Keeps the picture up to date, without end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_queue())
            while True:
                await self._stale.wait()
                self._stale.clear()
                try:
                    await self._look(tasks)
                except EvalServiceError:
                    self._stale.set()  # the server is away, and its watches say so
                self._changed()
                await asyncio.sleep(_PAUSE)

    async def _watch_queue(self) -> None:
        async for _ in self._client.watch_queue():
            self._stale.set()

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        queue = await self._client.get_queue_status()
        for job_id in chain(queue["running_jobs"], queue["queued_jobs"][:WAITING_SHOWN]):
            if job_id not in self._jobs:
                with suppress(JobNotFound):
                    self._jobs[job_id] = await self._client.get(job_id)
        for job_id in queue["running_jobs"]:
            if job_id not in self._watches:
                self._watches[job_id] = tasks.create_task(self._watch_job(job_id))
        self.queue = queue
        await self._find_recent()
        self._forget({*queue["running_jobs"], *queue["queued_jobs"]})

    async def _watch_job(self, job_id: str) -> None:
        view = JobView(job_id)
        try:
            with suppress(EvalServiceError):
                async for event in self._client.watch_job(job_id):
                    view = view.with_event(event)
                    self.running[job_id] = view
                    self._changed()
        finally:
            self.running.pop(job_id, None)
            self._stale.set()

    async def _find_recent(self) -> None:
        known = {job.job_id: job for job in self.recent}
        found = []
        async for job in self._client.list_jobs(["completed", "failed", "cancelled"], page_size=RECENT_SHOWN):
            with suppress(JobNotFound):
                found.append(known.get(job.job_id) or await self._client.get(job.job_id))
            if len(found) == RECENT_SHOWN:
                break
        self.recent = sorted(found, key=lambda job: job.end_time.ToNanoseconds(), reverse=True)

    def _forget(self, alive: set[str]) -> None:
        for job_id in [job_id for job_id in self._jobs if job_id not in alive]:
            del self._jobs[job_id]
        for job_id in [job_id for job_id, watch in self._watches.items() if watch.done()]:
            del self._watches[job_id]
