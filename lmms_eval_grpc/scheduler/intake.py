"""Taking jobs in: durable before they are acknowledged, once for each request."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from lmms_eval_grpc.jobs.errors import JobNotFound, RequestIdConflict, ServiceError
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import JobSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.scheduler.quotas import Quotas
from lmms_eval_grpc.store.base import JobStore


class Intake:
    """Makes jobs of requests."""

    def __init__(self, store: JobStore, journal: Journal, quotas: Quotas, clock: Callable[[], float]) -> None:
        self._store = store
        self._journal = journal
        self._quotas = quotas
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
    ) -> Job:
        """A new job, or the one that the same request made before, also when ``refusal()`` tells why new ones are
        refused, which is then raised."""
        if (refused := refusal()) is not None:
            known = await self._made_before(request_id, request_digest) if request_id else None
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
        )
        self._incoming.add(job.job_id)
        self._quotas.submitted(owner, job.job_id)
        created: Job | None = None
        try:
            while True:
                try:
                    created = await self._journal.create(job)
                    return created
                except RequestIdConflict:
                    known = await self._made_before(request_id, request_digest)
                if known is not None:
                    return known
                # Retention has removed it in between: the request id is free.
        finally:
            self._incoming.discard(job.job_id)
            if created is None:
                self._quotas.withdrawn(owner, job.job_id)

    async def _made_before(self, request_id: str, request_digest: str) -> Job | None:
        """The job that the same request made before, if it is still there."""
        job = await self._store.find_request(request_id)
        if job is None:
            return None
        if job.request_digest != request_digest:
            raise RequestIdConflict(request_id, job.job_id)
        try:
            return await self._journal.job(job.job_id)
        except JobNotFound:
            return job  # It is being removed: this is the last that is heard of it.
