"""The methods for those who run the server: each converts, makes one domain call, and converts back."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

import grpc.aio

from lmms_eval_grpc.jobs.errors import InvalidRequest, Violation
from lmms_eval_grpc.scheduler import Scheduler
from lmms_eval_grpc.server.convert_job import write_job
from lmms_eval_grpc.server.convert_values import read_duration
from lmms_eval_grpc.server.servicer import read_job_id
from lmms_eval_grpc.server.validate import MAX_PRIORITY
from lmms_eval_grpc.server.watch import queue_snapshot
from lmms_eval_grpc.v1 import admin_service_pb2 as pb
from lmms_eval_grpc.v1 import admin_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Drain(Protocol):
    """Has the server take no new jobs, and stop once it has done what it has to do."""

    def __call__(self, *, finish_queued: bool, timeout: float | None) -> Awaitable[None]: ...


class AdminServicer(pb_grpc.AdminServiceServicer):
    """The service, over the parts that do the work."""

    def __init__(self, scheduler: Scheduler, drain: Drain) -> None:
        self._scheduler = scheduler
        self._drain = drain

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Context) -> pb.PauseQueueResponse:
        await self._scheduler.pause(request.reason)
        return pb.PauseQueueResponse(queue=await queue_snapshot(self._scheduler))

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Context) -> pb.ResumeQueueResponse:
        await self._scheduler.resume()
        return pb.ResumeQueueResponse(queue=await queue_snapshot(self._scheduler))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        timeout = _read_seconds(request, "timeout", "leave it unset to wait for however long the jobs take")
        await self._drain(finish_queued=request.finish_queued, timeout=timeout)
        return pb.DrainResponse(queue=await queue_snapshot(self._scheduler))

    async def SetJobPriority(self, request: pb.SetJobPriorityRequest, context: Context) -> pb.SetJobPriorityResponse:
        job_id = read_job_id(request)
        if abs(request.priority) > MAX_PRIORITY:
            description = f"{request.priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}"
            raise InvalidRequest([Violation("priority", description)])
        job = await self._scheduler.set_priority(job_id, request.priority)
        position = self._scheduler.position(job_id)
        return pb.SetJobPriorityResponse(job=write_job(job, full=True, queue_position=position))

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        keep = request.keep if request.HasField("keep") else None
        if keep is not None and keep < 0:
            raise InvalidRequest([Violation("keep", f"{keep} is negative; 0 keeps no ended job")])
        older_than = _read_seconds(request, "older_than", "leave it unset if age does not matter")
        collected = await self._scheduler.collect_garbage(keep, older_than, request.dry_run)
        return pb.CollectGarbageResponse(
            job_ids=collected.job_ids, leftovers=collected.leftovers, freed_bytes=collected.freed_bytes
        )


def _read_seconds(request: Any, field: str, remedy: str) -> float | None:
    if not request.HasField(field):
        return None
    seconds = read_duration(getattr(request, field))
    if seconds < 0:
        raise InvalidRequest([Violation(field, f"{seconds:g} s is negative; {remedy}")])
    return seconds
