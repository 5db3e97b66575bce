"""Workers of jobs that still wait: they prepare what needs no device, and get one when the job before lets go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.executors.worker_process import WorkerProcess, forget_identity
from lmms_eval_grpc.jobs.secrets import SecretsLost
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob, WorkerCommand

logger = logging.getLogger(__name__)

Fork = Callable[[RunJob, asyncio.Event], Awaitable[WorkerProcess | None]]
"""Makes a worker for a job; None when there is none to be had, or the event, which is not waited beyond, is set."""


class PreparedWorkers:
    """At most one per job that is expected next. Losing one costs time, no more."""

    def __init__(self, fork: Fork) -> None:
        self._fork = fork
        self._waiting: dict[str, _PreparedWorker] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()

    def expect(self, orders: Mapping[str, Callable[[], RunJob]], begun: Collection[str] = ()) -> None:
        """Starts and dismisses workers, so that there are those of the jobs that come next. Returns at once.

        Args:
            orders: by the ids of these jobs, what makes the order for a worker, if there has to be one.
            begun: jobs whose workers, if they have any, are about to be taken.
        """
        for job_id in self._waiting.keys() - orders.keys() - set(begun):
            self._dismiss(job_id)
        for job_id, order in orders.items():
            if job_id not in self._waiting:
                try:
                    made = order()
                except SecretsLost:
                    continue  # It cannot run, and its start says so; the others are not concerned.
                after = self._leaving.get(job_id)
                self._waiting[job_id] = _PreparedWorker(made, self._fork, self._hurry, after)

    async def take(self, job_id: str, attempt: int) -> WorkerProcess | None:
        """The worker that prepares or has prepared this attempt of the job, for whoever runs it now; None, once nothing
        is left of any other of this job."""
        waiting = self._waiting.get(job_id)
        if waiting is not None and waiting.order.attempt == attempt:
            del self._waiting[job_id]
            return await waiting.take()
        await self.drop(job_id)
        return None

    async def drop(self, job_id: str) -> None:
        """Returns when nothing is left of a worker of this job."""
        if job_id in self._waiting:
            self._dismiss(job_id)
        if (leaving := self._leaving.get(job_id)) is not None:
            await asyncio.wait({leaving})

    async def stop(self) -> None:
        """Returns when nothing is left of any of them."""
        self._hurry.set()
        self.expect({})
        if self._leaving:
            await asyncio.wait(self._leaving.values())

    def _dismiss(self, job_id: str) -> None:
        self._leaving[job_id] = leaving = self._waiting.pop(job_id).dismiss()
        leaving.add_done_callback(lambda _: self._leaving.pop(job_id) if self._leaving.get(job_id) is leaving else None)


class _PreparedWorker:
    """One of them, from its fork until it is taken or gone."""

    def __init__(self, order: RunJob, fork: Fork, hurry: asyncio.Event, after: asyncio.Task[None] | None) -> None:
        self.order = order
        self._fork = fork
        self._hurry = hurry
        self._after = after
        self._decided = asyncio.Event()
        self._wanted = False
        self._worker: WorkerProcess | None = None
        self._task = asyncio.create_task(self._live(), name=f"prepare-{order.job_id}")

    async def take(self) -> WorkerProcess | None:
        self._wanted = True
        self._decided.set()
        await asyncio.wait({self._task})
        return self._worker

    def dismiss(self) -> asyncio.Task[None]:
        """The task is done when nothing of it is left."""
        self._decided.set()
        return self._task

    async def _live(self) -> None:
        try:
            if self._after is not None:
                await asyncio.wait({self._after})
            worker = await self._fork(self.order, self._decided)
        except Exception:
            logger.exception("job %s: no worker can be prepared", self.order.job_id)
            return
        if worker is None:
            return
        worker.send(WorkerCommand(prepare=self.order))
        decided = asyncio.ensure_future(self._decided.wait())
        ends: set[asyncio.Future[Any]] = {decided, worker.exited}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        decided.cancel()
        if self._wanted and not worker.exited.done():
            self._worker = worker
            return
        try:
            if await worker.end(self._hurry):
                await forget_identity(self.order.job_id, Path(self.order.job_dir))
                await asyncio.to_thread(scratch.remove, Path(self.order.job_dir))
        finally:
            worker.close()
