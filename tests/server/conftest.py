"""A real server on a free port, with real clients; only what runs the jobs is a double."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.app import EvaluationServer
from lmms_eval_grpc.server.principals import Role
from lmms_eval_grpc.v1 import admin_service_pb2_grpc, job_pb2
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from tests.scheduler.doubles import PATIENCE, ScriptedExecution, ScriptedExecutor
from tests.support import audit
from tests.support.access import bearer, give_token

TASK = "handwritten_digits"


@dataclass
class Rig:
    """A server, what runs its jobs, and a client of it."""

    server: EvaluationServer
    executor: ScriptedExecutor
    channel: grpc.aio.Channel
    checkpoint: Path

    @property
    def stub(self) -> Any:
        return pb_grpc.EvaluationServiceStub(self.channel)

    def spec(self, **fields: Any) -> job_pb2.EvaluationSpec:
        """A specification that the server accepts, with some fields changed."""
        spec = job_pb2.EvaluationSpec(**{"model": "idefics3", "tasks": [TASK], **fields})
        spec.model_args["pretrained"] = str(self.checkpoint)
        return spec

    async def submit(self, *, spec: job_pb2.EvaluationSpec | None = None, **fields: Any) -> job_pb2.Job:
        request = pb.EvaluateRequest(spec=spec or self.spec(), **fields)
        response: pb.EvaluateResponse = await self.stub.Evaluate(request)
        return response.job

    async def get(self, job_id: str, **fields: Any) -> job_pb2.Job:
        response: pb.GetJobResponse = await self.stub.GetJob(pb.GetJobRequest(job_id=job_id, **fields))
        return response.job

    async def running(self, **fields: Any) -> tuple[str, ScriptedExecution]:
        """A new job, and the worker that runs it."""
        job = await self.submit(**fields)
        return job.job_id, await self.executor.execution(job.job_id)

    async def ended(self, job_id: str) -> job_pb2.Job:
        """The job, once it has ended."""
        async for _ in self.watch(job_id):
            pass
        return await self.get(job_id)

    async def watch(self, job_id: str, **fields: Any) -> AsyncIterator[pb.WatchJobResponse]:
        """What WatchJob tells of a job."""
        async for message in following(self.stub.WatchJob(pb.WatchJobRequest(job_id=job_id, **fields))):
            yield message

    def job_dir(self, job_id: str) -> Path:
        folder = self.server.state_dir / "jobs" / job_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder


NewRig = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def new_rig(tmp_path: Path) -> AsyncIterator[NewRig]:
    """Starts servers over the same state folder, one after the other or, with a ``state_dir`` each, at once."""
    rigs: list[Rig] = []
    checkpoint = tmp_path / "checkpoint-100"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")

    async def start(*devices: str, **settings: Any) -> Rig:
        usual = {"port": 0, "state_dir": tmp_path / "state", "shutdown_grace": 1.0, "allow_task_files": True}
        args = ServerArgs(**{**usual, **settings})
        executor = ScriptedExecutor(devices or ("cpu",))
        server = EvaluationServer(args, executor=executor)
        await server.start()
        rig = Rig(server, executor, grpc.aio.insecure_channel(server.address), checkpoint)
        rigs.append(rig)
        return rig

    yield start
    for rig in rigs:
        await rig.channel.close()
        await rig.server.stop(0)


@pytest.fixture
async def rig(new_rig: NewRig) -> Rig:
    """A server with one CPU."""
    return await new_rig()


@dataclass
class Guarded:
    """A server, its access list, and what shows each of its callers."""

    rig: Rig
    file: Path
    audit: Path
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def stub(self) -> Any:
        return pb_grpc.EvaluationServiceStub(self.rig.channel)

    @property
    def admin(self) -> Any:
        return admin_service_pb2_grpc.AdminServiceStub(self.rig.channel)

    def give(self, name: str, role: Role, **options: Any) -> tuple[tuple[str, str], ...]:
        self.tokens[name] = give_token(self.file, name, role, **options)
        return self.as_(name)

    def as_(self, name: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a caller."""
        return bearer(self.tokens[name])

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        return audit.lines_of(self.audit)


NewGuarded = Callable[..., Awaitable[Guarded]]


@pytest.fixture
def new_guarded(new_rig: NewRig, tmp_path: Path) -> NewGuarded:
    """Starts a server that alice (submit), bob (submit), rita (read) and root (admin) may call."""

    async def start(**settings: Any) -> Guarded:
        file, audit = tmp_path / "access", tmp_path / "audit.jsonl"
        tokens = {
            name: give_token(file, name, role)
            for name, role in (
                ("alice", Role.SUBMIT),
                ("bob", Role.SUBMIT),
                ("rita", Role.READ),
                ("root", Role.ADMIN),
            )
        }
        rig = await new_rig(access_file=file, audit_log=audit, **settings)
        return Guarded(rig, file, audit, tokens)

    return start


@pytest.fixture
async def guarded(new_guarded: NewGuarded) -> Guarded:
    return await new_guarded()


async def following(call: Any) -> AsyncIterator[Any]:
    """The messages of a stream, none of which may be long in coming."""
    try:
        while True:
            async with asyncio.timeout(PATIENCE):
                message = await call.read()
            if message is grpc.aio.EOF:
                return
            yield message
    finally:
        call.cancel()


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call, or the reading of a stream, ends with."""
    try:
        async with asyncio.timeout(PATIENCE):
            if hasattr(call, "read"):
                while await call.read() is not grpc.aio.EOF:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return error
    pytest.fail("the call succeeded")


def status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The status that came with an error, as any client library reads it."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert isinstance(packed, bytes), f"{error.code()} came without details: {error.details()}"
    return status_pb2.Status.FromString(packed)


def detail(error: grpc.aio.AioRpcError, kind: str) -> Any:
    """The detail of a kind (``ErrorInfo``, ``BadRequest``, …) of an error."""
    made: Message = getattr(error_details_pb2, kind)()
    for packed in status(error).details:
        if packed.Unpack(made):
            return made
    raise AssertionError(f"{error.code()} came without {kind}: {status(error)}")


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """What is wrong, by field."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    return {violation.field: violation.description for violation in detail(error, "BadRequest").field_violations}


def states(messages: list[pb.WatchJobResponse]) -> list[str]:
    """The states that a watch told, by name."""
    changes = [one.event.state_change for one in messages if one.event.HasField("state_change")]
    return [job_pb2.JobState.Name(change.state).removeprefix("JOB_STATE_") for change in changes]
