"""What the people who run a server do with it: the same methods for the sync and the asyncio client."""

from __future__ import annotations

from lmms_eval_grpc.client import requests
from lmms_eval_grpc.client.aio_transport import AioTransport
from lmms_eval_grpc.client.transport import Transport
from lmms_eval_grpc.v1 import admin_service_pb2 as admin
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2 as messages

_COLLECTION_TIMEOUT = 600.0
"""Seconds that removing many large folders may take."""


class AdminMethods:
    """Part of `EvalClient`."""

    _transport: Transport

    def pause_queue(self, reason: str = "") -> service.QueueSnapshot:
        """Has no further jobs started until `resume_queue`, also after a restart of the server. Those that run go on.

        Args:
            reason: Why, for those who look at the queue.

        Returns:
            The queue as it then is.
        """
        return self._transport.unary(lambda stub: stub.PauseQueue, admin.PauseQueueRequest(reason=reason)).queue

    def resume_queue(self) -> service.QueueSnapshot:
        """Has jobs started again, and returns the queue as it then is."""
        return self._transport.unary(lambda stub: stub.ResumeQueue, admin.ResumeQueueRequest()).queue

    def drain(self, *, finish_queued: bool = False, timeout: float | None = None) -> service.QueueSnapshot:
        """Has the server refuse new jobs, and stop once what it has to do is done. Returns at once.

        A later call may be stricter.

        Args:
            finish_queued: Run the queued jobs too. Otherwise they stay for the next server.
            timeout: Seconds that running jobs get; those that still run then go back into the queue. None: no bound.

        Returns:
            The queue as it then is.

        Raises:
            QueuePaused: the queued jobs are to be finished, but the queue is paused.
        """
        request = requests.drain(finish_queued, timeout)
        return self._transport.unary(lambda stub: stub.Drain, request).queue

    def set_priority(self, job_id: str, priority: int) -> messages.Job:
        """Moves a queued job within the queue.

        Args:
            job_id: The job.
            priority: Higher runs first; among equals the earlier submission.

        Returns:
            The job as it then is.

        Raises:
            JobNotFound: there is no such job.
            JobNotQueued: it does not wait any more.
        """
        request = requests.set_priority(job_id, priority)
        return self._transport.unary(lambda stub: stub.SetJobPriority, request).job

    def collect_garbage(
        self, *, keep: int | None = None, older_than: float | None = None, dry_run: bool = False
    ) -> admin.CollectGarbageResponse:
        """Removes ended jobs with their files, and what crashes have left behind.

        Args:
            keep: Ended jobs to keep whatever their age, newest first. None: none if `older_than` is set, otherwise as
                many as the server is configured to keep.
            older_than: Seconds; only jobs that ended longer ago are removed. None: age does not matter.
            dry_run: Only tell what would be removed.

        Returns:
            What was removed, and how many bytes that freed.
        """
        request = requests.collect_garbage(keep, older_than, dry_run)
        return self._transport.unary(lambda stub: stub.CollectGarbage, request, _COLLECTION_TIMEOUT)


class AsyncAdminMethods:
    """Part of `AsyncEvalClient`."""

    _transport: AioTransport

    async def pause_queue(self, reason: str = "") -> service.QueueSnapshot:
        return (await self._transport.unary(lambda stub: stub.PauseQueue, admin.PauseQueueRequest(reason=reason))).queue

    async def resume_queue(self) -> service.QueueSnapshot:
        return (await self._transport.unary(lambda stub: stub.ResumeQueue, admin.ResumeQueueRequest())).queue

    async def drain(self, *, finish_queued: bool = False, timeout: float | None = None) -> service.QueueSnapshot:
        request = requests.drain(finish_queued, timeout)
        return (await self._transport.unary(lambda stub: stub.Drain, request)).queue

    async def set_priority(self, job_id: str, priority: int) -> messages.Job:
        request = requests.set_priority(job_id, priority)
        return (await self._transport.unary(lambda stub: stub.SetJobPriority, request)).job

    async def collect_garbage(
        self, *, keep: int | None = None, older_than: float | None = None, dry_run: bool = False
    ) -> admin.CollectGarbageResponse:
        request = requests.collect_garbage(keep, older_than, dry_run)
        return await self._transport.unary(lambda stub: stub.CollectGarbage, request, _COLLECTION_TIMEOUT)
