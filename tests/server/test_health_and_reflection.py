"""The services beside ours, as tools use them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.scheduler.doubles import PATIENCE, until
from tests.server.conftest import Rig, following

SERVICE = "lmms_eval_grpc.v1.EvaluationService"
ADMIN = "lmms_eval_grpc.v1.AdminService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
BUF = Path(sys.executable).with_name("buf")

needs_buf = pytest.mark.skipif(not BUF.exists(), reason="buf is not installed here")


async def test_health_tells_alive_and_ready(rig: Rig) -> None:
    stub = health_pb2_grpc.HealthStub(rig.channel)
    for service in ("", ADMIN, SERVICE):
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    listed = (await stub.List(health_pb2.HealthListRequest())).statuses
    assert {name: one.status for name, one in listed.items()} == {"": SERVING, ADMIN: SERVING, SERVICE: SERVING}


async def test_a_watch_of_health_tells_the_end_and_does_not_hold_it_up(rig: Rig) -> None:
    stub = health_pb2_grpc.HealthStub(rig.channel)
    told: dict[str, list[int]] = {"": [], SERVICE: [], "nope": []}

    async def watch(service: str) -> None:
        async for message in following(stub.Watch(health_pb2.HealthCheckRequest(service=service))):
            told[service].append(message.status)

    watching = [asyncio.create_task(watch(service)) for service in told]
    async with asyncio.timeout(PATIENCE):
        await until(lambda: all(told.values()))
        stopping = asyncio.create_task(rig.server.stop(PATIENCE))
        await asyncio.gather(*watching)
        await stopping
    unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert told == {"": [SERVING, NOT_SERVING], SERVICE: [SERVING, NOT_SERVING], "nope": [unknown]}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_serves_both_versions(rig: Rig, version: str) -> None:
    call: Any = rig.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()

    async def ask(**request: Any) -> Any:
        await call.write(reflection_pb2.ServerReflectionRequest(**request))
        return await asyncio.wait_for(call.read(), PATIENCE)

    services = (await ask(list_services="")).list_services_response.service
    assert {SERVICE, ADMIN} <= {service.name for service in services}
    for request in ({"file_containing_symbol": SERVICE}, {"file_by_filename": "lmms_eval_grpc/v1/job.proto"}):
        files = (await ask(**request)).file_descriptor_response.file_descriptor_proto
        names = [FileDescriptorProto.FromString(file).name for file in files]
        assert "lmms_eval_grpc/v1/job.proto" in names
        assert "google/protobuf/struct.proto" in names
        assert len(names) == len(set(names))
    error = (await ask(file_containing_symbol="no.Such")).error_response
    assert error.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert (await ask()).error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    await call.done_writing()


async def curl(rig: Rig, method: str, *flags: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(BUF),
        *("curl", "--protocol", "grpc", "--http2-prior-knowledge", *flags),
        f"http://{rig.server.address}{method}",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    out, err = await asyncio.wait_for(process.communicate(), 4 * PATIENCE)
    assert process.returncode == 0, err.decode()
    return out.decode()


@needs_buf
async def test_a_terminal_client_needs_no_protos(rig: Rig) -> None:
    listed = (await curl(rig, "", "--list-methods")).split()
    assert len([method for method in listed if method.startswith(f"{SERVICE}/")]) == 13
    assert f"{ADMIN}/PauseQueue" in listed
    spec = {"model": "idefics3", "modelArgs": {"pretrained": str(rig.checkpoint)}, "tasks": ["handwritten_digits"]}
    job = json.loads(await curl(rig, f"/{SERVICE}/Evaluate", "--data", json.dumps({"spec": spec})))["job"]
    assert job["state"] == "JOB_STATE_QUEUED"
    assert job["evaluation"]["modelArgs"] == {"pretrained": str(rig.checkpoint)}
    (await rig.executor.execution(job["jobId"])).complete()
    told = await curl(rig, f"/{SERVICE}/WatchJob", "--data", json.dumps({"jobId": job["jobId"], "afterSequence": "0"}))
    assert "JOB_STATE_COMPLETED" in told
    assert json.loads(await curl(rig, "/grpc.health.v1.Health/Check", "--data", "{}"))["status"] == "SERVING"
