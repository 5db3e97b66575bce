"""Clients that make unary calls: at a steady rate, so many at once, or all at once."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from benchmarks.load_generator.executor import Script
from benchmarks.load_generator.server import ECHO
from lmms_eval_grpc.v1 import admin_service_pb2 as admin
from lmms_eval_grpc.v1 import admin_service_pb2_grpc as admin_grpc
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from lmms_eval_grpc.v1 import job_pb2

Latencies = dict[str, list[float]]
"""Seconds of every call, by method."""


class Caller:
    """The object of a client process: one connection to the server, and one to its echo."""

    def __init__(self, address: str, echo_address: str, checkpoint: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub: Any = pb_grpc.EvaluationServiceStub(self._channel)
        self._admin: Any = admin_grpc.AdminServiceStub(self._channel)
        self._echo_channel = grpc.aio.insecure_channel(echo_address, options=options)
        self._echo: Any = self._echo_channel.unary_unary(
            ECHO,
            request_serializer=pb.EvaluateRequest.SerializeToString,
            response_deserializer=pb.EvaluateRequest.FromString,
        )
        self._checkpoint = checkpoint

    async def submit(self, *scripts: Script) -> list[str]:
        """Submits a job for each script, one after the other, and returns their ids."""
        return [(await self._stub.Evaluate(self._request(script))).job.job_id for script in scripts]

    async def pause(self) -> None:
        """No job is started until :meth:`resume`."""
        await self._admin.PauseQueue(admin.PauseQueueRequest(reason="load"))

    async def resume(self) -> None:
        """Jobs are started again."""
        await self._admin.ResumeQueue(admin.ResumeQueueRequest())

    async def cancel(self, job_id: str) -> None:
        """Cancels a job."""
        await self._stub.CancelJob(pb.CancelJobRequest(job_id=job_id, reason="load"))

    async def running(self, job_id: str) -> None:
        """Returns once the job runs."""
        async for message in self._stub.WatchJob(pb.WatchJobRequest(job_id=job_id, after_sequence=0)):
            if message.event.state_change.state == job_pb2.JOB_STATE_RUNNING:
                return

    async def history(self, job_id: str) -> tuple[int, ...]:
        """The states that the log of an ended job holds."""
        stream = self._stub.WatchJob(pb.WatchJobRequest(job_id=job_id, after_sequence=0))
        events = [message.event async for message in stream]
        return tuple(event.state_change.state for event in events if event.HasField("state_change"))

    async def job_ids(self) -> set[str]:
        """Of all jobs that the server lists."""
        found: set[str] = set()
        token = ""
        while True:
            page = await self._stub.ListJobs(pb.ListJobsRequest(page_size=1000, page_token=token))
            found.update(job.job_id for job in page.jobs)
            token = page.next_page_token
            if not token:
                return found

    async def steady(self, seconds: float, per_second: float, job_id: str) -> Latencies:
        """Calls of five kinds in turn, each started at its time whatever became of those before."""
        taken: Latencies = {}
        script = Script(seconds=0.05)
        kinds: dict[str, Callable[[], Awaitable[Any]]] = {
            "GetJob": lambda: self._stub.GetJob(pb.GetJobRequest(job_id=job_id)),
            "QueueStatus": lambda: self._stub.QueueStatus(pb.QueueStatusRequest()),
            "Evaluate": lambda: self._stub.Evaluate(self._request(script)),
            "ListJobs": lambda: self._stub.ListJobs(pb.ListJobsRequest(page_size=20)),
            "GetServerInfo": lambda: self._stub.GetServerInfo(pb.GetServerInfoRequest()),
        }

        async def call(kind: str) -> None:
            began = time.perf_counter()
            await kinds[kind]()
            taken.setdefault(kind, []).append(time.perf_counter() - began)

        began = time.monotonic()
        calls = []
        for number, kind in enumerate(itertools.cycle(kinds)):
            due = began + number / per_second
            if due > began + seconds:
                break
            await asyncio.sleep(due - time.monotonic())
            calls.append(asyncio.create_task(call(kind)))
        await asyncio.gather(*calls)
        return taken

    async def compare(self, in_flight: int, rounds: int, calls: int) -> tuple[list[float], list[float]]:
        """Seconds of every echo and of every submission, so many in flight at a time: ``rounds`` of ``calls`` of each
        in turn."""
        echoes: list[float] = []
        submissions: list[float] = []
        script = Script()
        for _ in range(rounds):
            await self._many(in_flight, calls, lambda: self._echo(self._request(script)), echoes)
            await self._many(in_flight, calls, lambda: self._stub.Evaluate(self._request(script)), submissions)
        return echoes, submissions

    async def burst(self, count: int) -> tuple[list[float], list[str], list[str]]:
        """So many submissions at once on this one connection: seconds of each that was answered, the ids of their jobs,
        and the statuses of the others."""
        taken: list[float] = []
        job_ids: list[str] = []
        errors: list[str] = []

        async def submit() -> None:
            began = time.perf_counter()
            try:
                response = await self._stub.Evaluate(self._request(Script()))
            except grpc.aio.AioRpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")
                return
            taken.append(time.perf_counter() - began)
            job_ids.append(response.job.job_id)

        await asyncio.gather(*(submit() for _ in range(count)))
        return taken, job_ids, errors

    async def close(self) -> None:
        """Closes both connections."""
        await self._channel.close()
        await self._echo_channel.close()

    async def _many(self, in_flight: int, count: int, make: Callable[[], Awaitable[Any]], taken: list[float]) -> None:
        todo = iter(range(count))

        async def work() -> None:
            for _ in todo:
                began = time.perf_counter()
                await make()
                taken.append(time.perf_counter() - began)

        await asyncio.gather(*(work() for _ in range(in_flight)))

    def _request(self, script: Script) -> pb.EvaluateRequest:
        spec = job_pb2.EvaluationSpec(model="idefics3", tasks=["handwritten_digits"])
        spec.model_args["pretrained"] = self._checkpoint
        # As those of the client library, each request has an id, so that it can be repeated.
        return pb.EvaluateRequest(spec=spec, labels=script.labels(), request_id=str(uuid.uuid4()))
