"""A real gRPC server with the real contract that misbehaves on command: what a good server never does, on request."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from google.rpc import error_details_pb2, status_pb2

from lmms_eval_grpc.v1 import catalog_pb2, job_pb2
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as stubs

ENDED = (job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


class Break(Exception):
    """Ends a call with this status."""

    def __init__(self, code: grpc.StatusCode, text: str = "scripted", trailers: tuple[Any, ...] = ()) -> None:
        self.code, self.text, self.trailers = code, text, trailers


def details(reason: str, *more: Message, domain: str = "lmms-eval-grpc") -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata with an ErrorInfo and more."""
    status = status_pb2.Status(code=1, message="scripted")
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"a": "b"}), *more):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))


def state_change(state: int, **fields: Any) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(state_change=job_pb2.StateChange(state=state, **fields))


def task_result(task: str, value: float = 0.5) -> job_pb2.JobEvent:
    metric = job_pb2.Metric(name="exact_match", filter="none", value=value, standard_error=0.1, sample_count=10)
    counts = job_pb2.SampleCounts(asked=10, scored=10)
    return job_pb2.JobEvent(task_result=job_pb2.TaskResult(task=task, metrics=[metric], samples=counts))


def progress(done: int, total: int) -> job_pb2.JobEvent:
    told = job_pb2.Progress(stage=job_pb2.JOB_STAGE_GENERATING, samples_done=done, samples_total=total)
    return job_pb2.JobEvent(progress=told)


class Servicer(stubs.EvaluationServiceServicer):
    """The attributes are the script; they may be changed at any time."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jobs: dict[str, job_pb2.Job] = {}
        self.events: dict[str, list[job_pb2.JobEvent]] = {}
        self.samples: list[job_pb2.SampleRecord] = []
        self.log = b""
        self.tasks = ["digits", "mme", "mmmu"]
        self.requests: list[Message] = []
        self.calls: Counter[str] = Counter()
        self.authorizations: list[str] = []
        """What each call showed of this name; empty where it showed nothing."""
        self.serving = True
        self.breaks: dict[str, list[Break]] = {}
        """By method: how the next calls end instead of working, in order."""
        self.delay: dict[str, float] = {}
        self.break_after: int | None = None
        """Streams: break after this many messages."""
        self.break_with = [Break(grpc.StatusCode.UNAVAILABLE)]
        """Taken in turn by `break_after`."""
        self.silent_calls = 0
        """This many next watches say nothing."""
        self.repeat_events = False
        """Watches start one event too early, as at-least-once allows."""
        self.end_early = False
        """Streams that break end with OK instead."""
        self._broken = 0
        self.open_watches = 0

    # What tests do to the server

    def add_job(self, job_id: str = "job-1", **fields: Any) -> job_pb2.Job:
        fields.setdefault("kind", job_pb2.JOB_KIND_EVALUATION)
        fields.setdefault("evaluation", job_pb2.EvaluationSpec(model="dummy", tasks=["digits"]))
        self.jobs[job_id] = job_pb2.Job(job_id=job_id, **fields)
        self.events[job_id] = []
        self.publish(state_change(job_pb2.JOB_STATE_QUEUED), job_id)
        return self.jobs[job_id]

    def publish(self, event: job_pb2.JobEvent, job_id: str = "job-1") -> None:
        with self.changed:
            job, events = self.jobs[job_id], self.events[job_id]
            event.sequence = job.sequence = len(events) + 1
            if event.HasField("state_change"):
                job.state = event.state_change.state
            if event.HasField("task_result"):
                job.task_results.append(event.task_result)
            events.append(event)
            self.changed.notify_all()

    # The service

    def Evaluate(self, request: service.EvaluateRequest, context: grpc.ServicerContext) -> service.EvaluateResponse:
        self._enter("Evaluate", request, context)
        if request.validate_only:
            return service.EvaluateResponse()
        for job in self.jobs.values():
            if job.request_id == request.request_id:
                return service.EvaluateResponse(job=job)
        queue_position = sum(job.state == job_pb2.JOB_STATE_QUEUED for job in self.jobs.values())
        job = self.add_job(
            str(uuid.uuid4()),
            evaluation=request.spec,
            labels=request.labels,
            priority=request.priority,
            request_id=request.request_id,
            queue_position=queue_position,
        )
        return service.EvaluateResponse(job=job)

    def MergeCheckpoint(
        self, request: service.MergeCheckpointRequest, context: grpc.ServicerContext
    ) -> service.MergeCheckpointResponse:
        self._enter("MergeCheckpoint", request, context)
        job = self.add_job("merge-1", kind=job_pb2.JOB_KIND_MERGE, evaluation=None, merge=request.spec)
        job.merge_result.output_path = "/out"
        self.publish(state_change(job_pb2.JOB_STATE_COMPLETED), "merge-1")
        return service.MergeCheckpointResponse(job=job)

    def GetJob(self, request: service.GetJobRequest, context: grpc.ServicerContext) -> service.GetJobResponse:
        self._enter("GetJob", request, context)
        return service.GetJobResponse(job=self._job(request.job_id, context))

    def CancelJob(self, request: service.CancelJobRequest, context: grpc.ServicerContext) -> service.CancelJobResponse:
        self._enter("CancelJob", request, context)
        job = self._job(request.job_id, context)
        if job.state not in ENDED:
            job.cancel_reason = request.reason
            self.publish(state_change(job_pb2.JOB_STATE_CANCELLED), request.job_id)
        return service.CancelJobResponse(job=job)

    def ListJobs(self, request: service.ListJobsRequest, context: grpc.ServicerContext) -> service.ListJobsResponse:
        self._enter("ListJobs", request, context)
        wanted = [
            job
            for job in reversed(self.jobs.values())
            if (not request.states or job.state in request.states)
            and all(job.labels.get(key) == value for key, value in request.labels.items())
        ]
        start, size = int(request.page_token or 0), request.page_size or 50
        token = str(start + size) if start + size < len(wanted) else ""
        return service.ListJobsResponse(jobs=wanted[start : start + size], next_page_token=token)

    def ListTasks(self, request: service.ListTasksRequest, context: grpc.ServicerContext) -> service.ListTasksResponse:
        self._enter("ListTasks", request, context)
        names = [name for name in self.tasks if name.startswith(request.filter)]
        start = int(request.page_token or 0)
        page = [catalog_pb2.TaskInfo(name=name, kind=catalog_pb2.TASK_KIND_TASK) for name in names[start : start + 2]]
        return service.ListTasksResponse(tasks=page, next_page_token=str(start + 2) if start + 2 < len(names) else "")

    def ListModels(
        self, request: service.ListModelsRequest, context: grpc.ServicerContext
    ) -> service.ListModelsResponse:
        self._enter("ListModels", request, context)
        return service.ListModelsResponse(models=[catalog_pb2.ModelInfo(name="dummy", available=True)])

    def GetServerInfo(
        self, request: service.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> service.GetServerInfoResponse:
        self._enter("GetServerInfo", request, context)
        return service.GetServerInfoResponse(server=catalog_pb2.ServerInfo(version="1", instance_id="x"))

    def QueueStatus(
        self, request: service.QueueStatusRequest, context: grpc.ServicerContext
    ) -> service.QueueStatusResponse:
        self._enter("QueueStatus", request, context)
        return service.QueueStatusResponse(queue=self._queue())

    def WatchJob(
        self, request: service.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[service.WatchJobResponse]:
        self._enter("WatchJob", request, context)
        job = self._job(request.job_id, context)
        if request.after_sequence > job.sequence:
            self._abort(Break(grpc.StatusCode.OUT_OF_RANGE, trailers=details("SEQUENCE_OUT_OF_RANGE")), context)
        if self.silent_calls > 0:
            self.silent_calls -= 1
            self._wait_for_hangup(context)
            return
        self.open_watches += 1
        context.add_callback(self._wake)
        try:
            yield from self._breaking(self._watch(request, context), context)
        finally:
            self.open_watches -= 1

    def _watch(
        self, request: service.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[service.WatchJobResponse]:
        events, cursor = self.events[request.job_id], request.after_sequence
        if self.repeat_events and cursor > 0:
            cursor -= 1
        heartbeat = request.heartbeat_interval.seconds + request.heartbeat_interval.nanos / 1e9
        while context.is_active():
            for event in events[cursor:]:
                cursor = event.sequence
                yield service.WatchJobResponse(event=event)
                if event.HasField("state_change") and event.state_change.state in ENDED:
                    return
            if self.jobs[request.job_id].state in ENDED:
                return
            with self.changed:
                told = self.changed.wait_for(
                    lambda seen=cursor: len(events) > seen or not context.is_active(), timeout=heartbeat
                )
            if not told:
                yield service.WatchJobResponse(heartbeat=service.Heartbeat(sequence=cursor))

    def WatchQueue(
        self, request: service.WatchQueueRequest, context: grpc.ServicerContext
    ) -> Iterator[service.WatchQueueResponse]:
        self._enter("WatchQueue", request, context)
        changes = [
            service.WatchQueueResponse(change=service.QueueChange(revision=number, job_id="job-1"))
            for number in range(1, 4)
        ]
        yield from self._breaking([service.WatchQueueResponse(snapshot=self._queue()), *changes], context)
        self._wait_for_hangup(context)

    def StreamSamples(
        self, request: service.StreamSamplesRequest, context: grpc.ServicerContext
    ) -> Iterator[service.StreamSamplesResponse]:
        self._enter("StreamSamples", request, context)
        records = [record for record in self.samples if request.task in ("", record.task)]
        batches = [
            service.StreamSamplesResponse(samples=records[start : start + 3], next_cursor=start + 3)
            for start in range(request.after_cursor, len(records), 3)
        ]
        yield from self._breaking(batches, context)

    def StreamLogs(
        self, request: service.StreamLogsRequest, context: grpc.ServicerContext
    ) -> Iterator[service.StreamLogsResponse]:
        self._enter("StreamLogs", request, context)
        start = request.after_offset if request.after_offset >= 0 else max(0, len(self.log) + request.after_offset)
        pieces = [
            service.StreamLogsResponse(text=self.log[at : at + 10].decode(), end_offset=min(at + 10, len(self.log)))
            for at in range(start, len(self.log), 10)
        ]
        yield from self._breaking(pieces, context)

    def check_health(self, request: StringValue, context: grpc.ServicerContext) -> Int32Value:
        self.requests.append(request)
        return Int32Value(value=1 if self.serving else 2)

    # The misbehaviour

    def _enter(self, method: str, request: Message, context: grpc.ServicerContext) -> None:
        self.calls[method] += 1
        shown = [value for key, value in context.invocation_metadata() if key == "authorization"]
        self.authorizations.append(" ".join(map(str, shown)))
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests.append(copy)
        time.sleep(self.delay.get(method, 0))
        if self.breaks.get(method):
            self._abort(self.breaks[method].pop(0), context)

    def _breaking(self, messages: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for count, message in enumerate(messages, start=1):
            yield message
            if count == self.break_after:
                self._broken += 1
                if self.end_early:
                    return
                self._abort(self.break_with[self._broken % len(self.break_with)], context)

    def _abort(self, how: Break, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(how.trailers)
        context.abort(how.code, how.text)

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _job(self, job_id: str, context: grpc.ServicerContext) -> job_pb2.Job:
        if job_id not in self.jobs:
            self._abort(Break(grpc.StatusCode.NOT_FOUND, f"no job {job_id}", details("JOB_NOT_FOUND")), context)
        return self.jobs[job_id]

    def _queue(self) -> service.QueueSnapshot:
        def ids(state: int) -> list[str]:
            return [job.job_id for job in self.jobs.values() if job.state == state]

        return service.QueueSnapshot(
            revision=7,
            accepting=True,
            running_job_ids=ids(job_pb2.JOB_STATE_RUNNING),
            queued_job_ids=ids(job_pb2.JOB_STATE_QUEUED),
            completed_count=len(ids(job_pb2.JOB_STATE_COMPLETED)),
            failed_count=len(ids(job_pb2.JOB_STATE_FAILED)),
            capacity=10,
            slots=[catalog_pb2.Slot(device="cpu", device_name="CPU")],
        )

    def _wait_for_hangup(self, context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait()


class ScriptedServer:
    """Runs a `Servicer` on a port of its own, or a socket file. May be stopped and started again on the same port."""

    def __init__(self, socket: Path | None = None) -> None:
        self.servicer = Servicer()
        self._socket = socket
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"unix:{self._socket}" if self._socket else f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=32), options=[("grpc.so_reuseport", 0)])
        stubs.add_EvaluationServiceServicer_to_server(self.servicer, self._server)
        health = grpc.unary_unary_rpc_method_handler(
            self.servicer.check_health, StringValue.FromString, Int32Value.SerializeToString
        )
        handlers = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health})
        self._server.add_generic_rpc_handlers((handlers,))
        bound = self._server.add_insecure_port(self.address)
        self.port = self.port or bound
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
