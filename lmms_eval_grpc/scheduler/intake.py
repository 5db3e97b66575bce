"""Taking jobs in: durable before they are acknowledged, once for each request."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from lmms_eval_grpc.jobs import context
from lmms_eval_grpc.jobs.errors import JobNotFound, RequestIdConflict, ServiceError, StoreUnavailable
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.secrets import Secrets, withdraw, write
from lmms_eval_grpc.jobs.spec import JobSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.quotas import Quotas
from lmms_eval_grpc.store.base import JobStore


class Intake:
    """Makes jobs of requests."""

    def __init__(
        self,
        store: JobStore,
        journal: Journal,
        quotas: Quotas,
        job_dir: Callable[[str], Path],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._journal = journal
        self._quotas = quotas
        self._job_dir = job_dir
        self._clock = clock
        self._last_order = 0
        self._incoming: set[str] = set()

    @property
    def under_way(self) -> int:
        """Jobs that are being made durable: not in the queue yet, but sure to come."""
        return len(self._incoming)

    @property
    def newest_order(self) -> int:
        """The place in submission order of the job that was taken in last."""
        return self._last_order

    async def start(self) -> None:
        """Goes on where the server before this one stopped."""
        self._last_order = await self._store.last_order()

    def queued(self, job_id: str) -> None:
        """Notes that a job is in the queue now."""
        self._incoming.discard(job_id)

    async def take(
        self,
        spec: JobSpec,
        request_id: str,
        request_digest: str,
        labels: Mapping[str, str],
        priority: int,
        owner: str,
        refusal: Callable[[], ServiceError | None],
        kept_apart: Secrets,
    ) -> Job:
        """A new job, or the one that the same request made before, also when ``refusal()`` tells why new ones are
        refused, which is then raised. ``kept_apart`` is what ``spec`` leaves out."""
        if (refused := refusal()) is not None:
            known = await self._made_before(request_id, request_digest, owner) if request_id else None
            if known is None:
                raise refused
            return known
        self._last_order += 1
        job = Job(
            job_id=secrets.token_hex(8),
            spec=spec,
            state=JobState.QUEUED,
            create_time=self._clock(),
            order=self._last_order,
            request_id=request_id,
            request_digest=request_digest,
            labels=labels,
            priority=priority,
            owner=owner,
            trace_parent=context.trace_parent.get(),
        )
        self._incoming.add(job.job_id)
        self._quotas.submitted(owner, job.job_id)
        made: Job | None = None
        try:
            if kept_apart:  # first: a job that is durable must be one that can run
                await self._keep(job.job_id, kept_apart)
            while True:
                try:
                    made = await self._journal.create(job)
                    return made
                except RequestIdConflict:
                    known = await self._made_before(request_id, request_digest, owner)
                if known is not None:
                    return known
                # Retention has removed it in between: the request id is free.
        finally:
            self._incoming.discard(job.job_id)
            if made is None:
                self._quotas.withdrawn(owner, job.job_id)
                if kept_apart:
                    await asyncio.to_thread(withdraw, self._job_dir(job.job_id))

    async def _keep(self, job_id: str, kept_apart: Secrets) -> None:
        try:
            await asyncio.to_thread(write, self._job_dir(job_id), kept_apart)
        except OSError as error:
            raise StoreUnavailable(f"the folder of a job cannot be written: {error}") from error

    async def _made_before(self, request_id: str, request_digest: str, owner: str) -> Job | None:
        """The job that the same request of the same owner made before, if it is still there."""
        job = await self._store.find_request(request_id)
        if job is None:
            return None
        if not job.was_made_by(owner, request_digest):
            raise RequestIdConflict(request_id, job.job_id)
        try:
            return await self._journal.job(job.job_id)
        except JobNotFound:
            return job  # It is being removed: this is the last that is heard of it.
