"""The asyncio client: `EvalClient`'s twin, with the same methods, arguments and results."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from lmms_eval_grpc.client import dictionaries, requests
from lmms_eval_grpc.client.admin import AsyncAdminMethods
from lmms_eval_grpc.client.aio_transport import AioTransport
from lmms_eval_grpc.client.base import READY_POLL, ClientBase, not_ready, outcome
from lmms_eval_grpc.client.catalog import AsyncCatalogMethods
from lmms_eval_grpc.client.credentials import Credentials
from lmms_eval_grpc.client.errors import EvalServiceError, ServerUnavailable
from lmms_eval_grpc.client.narration import make_narrator
from lmms_eval_grpc.client.requests import CheckpointType, EvaluationOptions, State
from lmms_eval_grpc.client.samples import AsyncSampleMethods
from lmms_eval_grpc.client.streams import JobWatch, Logs, QueueWatch, Reconnection
from lmms_eval_grpc.client.sync import EvalClient
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2 as messages

_ClassT = TypeVar("_ClassT")


def documented_like(twin: type) -> Callable[[type[_ClassT]], type[_ClassT]]:
    """Gives the methods of a class the documentation of its twin's: it is written once, there."""

    def document(kind: type[_ClassT]) -> type[_ClassT]:
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            member.__doc__ = member.__doc__ or inspect.getdoc(getattr(twin, name, None))
        return kind

    return document


class JobEvents(AsyncIterator[messages.JobEvent]):
    """A job's events: ``async for`` takes them as they come; awaited, all of them once the job has ended."""

    def __init__(self, stream: AsyncGenerator[messages.JobEvent]) -> None:
        self._stream = stream

    async def __anext__(self) -> messages.JobEvent:
        return await anext(self._stream)

    def __await__(self) -> Generator[Any, None, list[messages.JobEvent]]:
        return self._rest().__await__()

    async def _rest(self) -> list[messages.JobEvent]:
        return [event async for event in self]

    async def aclose(self) -> None:
        """Ends the stream."""
        await self._stream.aclose()


@documented_like(EvalClient)
class AsyncEvalClient(AsyncAdminMethods, AsyncCatalogMethods, AsyncSampleMethods, ClientBase):
    """Client of the evaluation service for asyncio, with the methods, arguments and results of :class:`EvalClient`.

    It belongs to the event loop of its first call. Tasks may share it; forked children may not use it.

    Example:
        >>> async with AsyncEvalClient("localhost:50051") as client:
        ...     job = await client.evaluate(model="qwen2_5_vl", tasks=["mme"], model_args={"pretrained": "/ckpt/100"})
        ...     result = (await client.wait_for_job(job["job_id"]))["result"]
    """

    def __init__(
        self,
        base_url: str = "http://localhost:50051",
        timeout: float | None = None,
        *,
        heartbeat_interval: float = 15.0,
        reconnect_timeout: float | None = 300.0,
        credentials: Credentials | None = None,
        token: str | None = None,
        token_file: str | PathLike[str] | None = None,
        plaintext_token: bool | None = None,
    ) -> None:
        super().__init__(
            base_url,
            timeout,
            heartbeat_interval=heartbeat_interval,
            reconnect_timeout=reconnect_timeout,
            credentials=credentials,
            token=token,
            token_file=token_file,
            plaintext_token=plaintext_token,
        )
        self._transport = AioTransport(self._settings)

    __init__.__doc__ = ClientBase.__init__.__doc__

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    # Health

    async def health(self) -> dict[str, Any]:
        status = await self._transport.health_status()
        queue = (await self._transport.unary(lambda stub: stub.QueueStatus, service.QueueStatusRequest())).queue
        return dictionaries.health(status, queue, datetime.now(UTC))

    async def is_healthy(self) -> bool:
        try:
            return bool((await self.health())["status"] == "healthy")
        except EvalServiceError:
            return False

    async def wait_for_ready(self, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        cause = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                if await self._transport.health_status(timeout=left) == dictionaries.SERVING:
                    return
            except ServerUnavailable as error:
                # The last attempt may only have run out of time; what an earlier one met says more.
                cause = error if cause is None or error.code == "UNAVAILABLE" else cause
            await self._transport.sleep(min(READY_POLL, left))
        raise not_ready(self._settings.address, timeout, cause) from cause

    # Jobs

    async def evaluate(
        self,
        model: str,
        tasks: str | Sequence[str],
        model_args: Mapping[str, Any] | str | None = None,
        num_fewshot: int | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        limit: int | float | None = None,
        gen_kwargs: Mapping[str, Any] | str | None = None,
        log_samples: bool = True,
        predict_only: bool = False,
        num_gpus: int = 1,
        output_dir: str | PathLike[str] | None = None,
        **options: Unpack[EvaluationOptions],
    ) -> dict[str, Any]:
        request = requests.evaluate(
            model=model,
            tasks=tasks,
            model_args=model_args,
            num_fewshot=num_fewshot,
            batch_size=batch_size,
            device=device,
            limit=limit,
            gen_kwargs=gen_kwargs,
            log_samples=log_samples,
            predict_only=predict_only,
            num_gpus=num_gpus,
            output_dir=output_dir,
            options=options,
        )
        response = await self._transport.unary(lambda stub: stub.Evaluate, request)
        return dictionaries.submission(response.job if response.HasField("job") else None)

    async def get_job(self, job_id: str) -> dict[str, Any]:
        return dictionaries.job(await self.get(job_id))

    async def get(self, job_id: str) -> messages.Job:
        return await self._get(job_id, self._settings.call_timeout)

    async def list_jobs(
        self,
        states: State | Iterable[State] = (),
        labels: Mapping[str, str] | None = None,
        *,
        owner: str = "",
        page_size: int = 50,
        full: bool = False,
    ) -> AsyncIterator[messages.Job]:
        request = requests.list_jobs(states, labels, owner, page_size, full=full)
        async for page in self._transport.pages(lambda stub: stub.ListJobs, request):
            for job in page.jobs:
                yield job

    async def cancel_job(self, job_id: str, reason: str = "") -> dict[str, Any]:
        request = service.CancelJobRequest(job_id=job_id, reason=reason)
        return dictionaries.cancellation((await self._transport.unary(lambda stub: stub.CancelJob, request)).job)

    async def wait_for_job(
        self,
        job_id: str,
        poll_interval: float = 5.0,
        timeout: float | None = None,
        verbose: bool = True,
    ) -> dict[str, Any]:
        waiting = self._settings.reconnection(f"waiting for job {job_id}", timeout)
        narrator = make_narrator(job_id, verbose)
        watched = False
        while True:
            job = await self._get_through_outages(job_id, waiting)
            narrator.tell_job(job)
            if dictionaries.has_ended(job.state):
                return outcome(job)
            if watched:
                await self._transport.sleep(waiting.delay_after(None))
            async for event in self._watch(job_id, job.sequence, waiting):
                narrator.tell_event(event)
            watched = True

    def watch_job(self, job_id: str, after_sequence: int = 0) -> JobEvents:
        return JobEvents(self._watch(job_id, after_sequence, self._settings.reconnection(f"watching job {job_id}")))

    def iter_logs(self, job_id: str, follow: bool = False, after_offset: int = 0) -> AsyncIterator[str]:
        state = Logs(job_id, follow, after_offset)
        return self._transport.follow(
            lambda stub: stub.StreamLogs, state, self._settings.reconnection(f"reading the log of job {job_id}")
        )

    # The queue

    async def get_queue_status(self) -> dict[str, Any]:
        return dictionaries.queue(
            (await self._transport.unary(lambda stub: stub.QueueStatus, service.QueueStatusRequest())).queue
        )

    def watch_queue(self) -> AsyncIterator[service.QueueSnapshot | service.QueueChange]:
        state = QueueWatch(self._settings.heartbeat_interval)
        return self._transport.follow(
            lambda stub: stub.WatchQueue,
            state,
            self._settings.reconnection("watching the queue"),
            silence_limit=self._settings.silence_limit,
        )

    async def merge_checkpoint(
        self,
        checkpoint_path: str | PathLike[str],
        output_path: str | PathLike[str] | None = None,
        checkpoint_type: CheckpointType = "regular",
        *,
        config_path: str | PathLike[str] | None = None,
        max_shard_bytes: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        request_id: str | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        request = requests.merge_checkpoint(
            checkpoint_path,
            output_path,
            checkpoint_type,
            config_path=config_path,
            max_shard_bytes=max_shard_bytes,
            labels=labels,
            priority=priority,
            request_id=request_id,
        )
        job = (await self._transport.unary(lambda stub: stub.MergeCheckpoint, request)).job
        if not wait:
            return dictionaries.submission(job)
        return dictionaries.merge(await self.wait_for_job(job.job_id, timeout=timeout, verbose=False))

    async def _get(self, job_id: str, timeout: float | None) -> messages.Job:
        request = service.GetJobRequest(job_id=job_id, view=messages.JOB_VIEW_FULL)
        return (await self._transport.unary(lambda stub: stub.GetJob, request, timeout)).job

    async def _get_through_outages(self, job_id: str, waiting: Reconnection) -> messages.Job:
        while True:
            try:
                return await self._get(job_id, waiting.time_left(self._settings.call_timeout))
            except ServerUnavailable as error:
                await self._transport.sleep(waiting.delay_after(error.rpc_error))

    def _watch(self, job_id: str, after_sequence: int, waiting: Reconnection) -> AsyncGenerator[messages.JobEvent]:
        state = JobWatch(job_id, after_sequence, self._settings.heartbeat_interval)
        return self._transport.follow(
            lambda stub: stub.WatchJob,
            state,
            waiting,
            silence_limit=self._settings.silence_limit,
        )
