"""The service's methods: each converts, makes one domain call, and converts back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.jobs.errors import InvalidRequest, Violation
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.scheduler import Journal, Scheduler
from lmms_eval_grpc.server import listings, streams, watch
from lmms_eval_grpc.server.auth.ownership import check_is_owner, check_may_prefer
from lmms_eval_grpc.server.catalog import AvailableModel, TaskCatalog
from lmms_eval_grpc.server.convert_catalog import ServerFacts, write_principal, write_server
from lmms_eval_grpc.server.convert_job import shows_results, write_job
from lmms_eval_grpc.server.convert_spec import Request, Submission
from lmms_eval_grpc.server.limits import Pacer
from lmms_eval_grpc.server.principals import Role, current_principal
from lmms_eval_grpc.server.validate import Validator
from lmms_eval_grpc.store.base import JobStore, SampleStore
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from lmms_eval_grpc.v1 import job_pb2

Context = grpc.aio.ServicerContext[Any, Any]


def add_to_server(servicer: EvaluationServicer, server: grpc.aio.Server) -> None:
    """Registers all methods. The responses of WatchJob, which has the most, may be bytes already."""
    watch_job = grpc.unary_stream_rpc_method_handler(
        servicer.WatchJob,
        request_deserializer=pb.WatchJobRequest.FromString,
        response_serializer=watch.serialize,
    )
    service = pb.DESCRIPTOR.services_by_name["EvaluationService"].full_name
    # The first that knows a method has it.
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"WatchJob": watch_job}),))
    pb_grpc.add_EvaluationServiceServicer_to_server(servicer, server)


class EvaluationServicer(pb_grpc.EvaluationServiceServicer):
    """The service, over the parts that do the work."""

    def __init__(
        self,
        *,
        store: JobStore,
        samples: SampleStore,
        journal: Journal,
        scheduler: Scheduler,
        executor: Executor,
        validator: Validator,
        catalog: TaskCatalog,
        models: Sequence[AvailableModel],
        facts: ServerFacts,
        max_submit_priority: int,
        stream_rate: int | None = None,
    ) -> None:
        """``stream_rate``: bytes per second that a stream of samples or of a log gets. None: no bound."""
        self._store = store
        self._samples = samples
        self._journal = journal
        self._scheduler = scheduler
        self._executor = executor
        self._validator = validator
        self._catalog = catalog
        self._models = models
        self._facts = facts
        self._max_submit_priority = max_submit_priority
        self._stream_rate = stream_rate

    async def Evaluate(self, request: pb.EvaluateRequest, context: Context) -> pb.EvaluateResponse:
        check_may_prefer(current_principal(), request.priority, self._max_submit_priority)
        try:
            submission = await self._validator.check(request)
        except InvalidRequest:
            # A call repeated after its checkpoint was removed gets its job, not a complaint about the checkpoint.
            known = None if request.validate_only else await self._find_repeated(request)
            if known is None:
                raise
            return pb.EvaluateResponse(job=self._write(known))
        if request.validate_only:
            return pb.EvaluateResponse()
        return pb.EvaluateResponse(job=self._write(await self._submit(submission)))

    async def _submit(self, submission: Submission) -> Job:
        return await self._scheduler.submit(
            submission.spec,
            request_id=submission.request_id,
            request_digest=submission.request_digest,
            labels=submission.labels,
            priority=submission.priority,
            owner=current_principal().name,
            secrets=submission.secrets,
        )

    def _write(self, job: Job, *, full: bool = True) -> job_pb2.Job:
        return write_job(job, full=full, queue_position=self._scheduler.position(job.job_id))

    async def _find_repeated(self, request: Request) -> Job | None:
        """The job that exactly this request, by the same principal, made before."""
        key = request.request_id.lower()
        job = await self._store.find_request(key) if key else None
        if job is None or not job.was_made_by(current_principal().name, self._validator.digest_of(request)):
            return None
        return job

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        job = await self._journal.job(read_job_id(request))
        full = shows_results(request.view, default=True)
        return pb.GetJobResponse(job=self._write(job, full=full))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        return await listings.list_jobs(request, self._store, self._scheduler)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        job_id = read_job_id(request)
        principal = current_principal()
        if principal.role < Role.ADMIN:
            check_is_owner(principal, await self._journal.job(job_id))
        job = await self._scheduler.cancel(job_id, request.reason)
        return pb.CancelJobResponse(job=write_job(job, full=True))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> None:  # type: ignore[override]
        read_job_id(request)
        await watch.watch_job(request, context, self._journal, self._scheduler)

    async def StreamSamples(self, request: pb.StreamSamplesRequest, context: Context) -> None:  # type: ignore[override]
        read_job_id(request)
        await streams.stream_samples(
            request, context, self._journal, self._scheduler, self._samples, Pacer(self._stream_rate)
        )

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Context) -> None:  # type: ignore[override]
        read_job_id(request)
        await streams.stream_logs(request, context, self._journal, self._scheduler, Pacer(self._stream_rate))

    async def MergeCheckpoint(self, request: pb.MergeCheckpointRequest, context: Context) -> pb.MergeCheckpointResponse:
        check_may_prefer(current_principal(), request.priority, self._max_submit_priority)
        try:
            submission = await self._validator.check_merge(request)
        except InvalidRequest:
            # A call repeated after its job was done gets the job, not a complaint that the output exists.
            known = await self._find_repeated(request)
            if known is None:
                raise
            return pb.MergeCheckpointResponse(job=self._write(known))
        return pb.MergeCheckpointResponse(job=self._write(await self._submit(submission)))

    async def QueueStatus(self, request: pb.QueueStatusRequest, context: Context) -> pb.QueueStatusResponse:
        return pb.QueueStatusResponse(queue=await watch.queue_snapshot(self._scheduler))

    async def WatchQueue(self, request: pb.WatchQueueRequest, context: Context) -> None:  # type: ignore[override]
        await watch.watch_queue(request, context, self._scheduler)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        return await listings.list_tasks(request, self._catalog)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return listings.list_models(request, self._models)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        server = write_server(
            self._facts,
            self._scheduler.queue().slots,
            jobs_started=self._scheduler.jobs_started,
            template_warm=self._executor.warm,
        )
        return pb.GetServerInfoResponse(server=server, caller=write_principal(current_principal()))


def read_job_id(request: Any) -> str:
    """The job that a request is about. Raises InvalidRequest."""
    if not request.job_id:
        raise InvalidRequest([Violation("job_id", "not set; Evaluate returns it, and ListJobs lists it")])
    return str(request.job_id)
