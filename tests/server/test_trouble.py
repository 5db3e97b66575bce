"""A server whose disk is full says so wherever it is asked whether it takes jobs, until there is space again."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lmms_eval_grpc.client import AsyncEvalClient, ServerUnavailable
from lmms_eval_grpc.server import health
from lmms_eval_grpc.store import trouble
from lmms_eval_grpc.store.sqlite import SqliteStore
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.scheduler.doubles import PATIENCE, until
from tests.server.conftest import Rig, detail, failure, following
from tests.store.test_failures import limit_pages

REASON = (
    "the job store cannot be written: database or disk is full;"
    " free space on the disk that holds the server's state folder"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "PROBE_EVERY", 0.1)


def store_of(rig: Rig) -> SqliteStore:
    store = rig.server._scheduler._store
    assert isinstance(store, SqliteStore)
    return store


def large(rig: Rig) -> job_pb2.EvaluationSpec:
    return rig.spec(system_instruction="x" * 50_000)


async def refuse(rig: Rig) -> None:
    """Fills the disk, and finds that a job is not taken."""
    limit_pages(store_of(rig), 0)
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=large(rig))))
    assert detail(error, "ErrorInfo").reason == "STORE_UNAVAILABLE"


async def statuses(rig: Rig) -> dict[str, int]:
    listed = (await health_pb2_grpc.HealthStub(rig.channel).List(health_pb2.HealthListRequest())).statuses
    return {name: one.status for name, one in listed.items()}


async def queue(rig: Rig) -> pb.QueueSnapshot:
    answer: pb.QueueStatusResponse = await rig.stub.QueueStatus(pb.QueueStatusRequest())
    return answer.queue


async def test_a_full_disk_is_told_until_there_is_space_again(rig: Rig) -> None:
    watch = following(rig.stub.WatchQueue(pb.WatchQueueRequest()))
    assert (await anext(watch)).snapshot.accepting
    ready = health_pb2.HealthCheckRequest(service=health.READY)
    told = following(health_pb2_grpc.HealthStub(rig.channel).Watch(ready))
    assert (await anext(told)).status == health.SERVING
    await refuse(rig)
    snapshot = (await anext(watch)).snapshot
    for shown in (snapshot, await queue(rig)):
        assert (shown.accepting, shown.draining, shown.paused, shown.trouble) == (False, False, False, REASON)
    assert await statuses(rig) == {
        health.ALIVE: health.SERVING,
        health.ADMIN: health.SERVING,
        health.READY: health.NOT_SERVING,
    }
    assert (await anext(told)).status == health.NOT_SERVING
    await asyncio.sleep(0.4)  # A few attempts of its own fail.
    # Nobody is sent away for it: who tries anyway is told as before.
    assert (await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=large(rig))))).code() is grpc.StatusCode.UNAVAILABLE

    limit_pages(store_of(rig), 1_000_000)
    before, snapshot = snapshot, (await anext(watch)).snapshot
    assert snapshot.revision == before.revision + 1, "it comes and goes"
    for shown in (snapshot, await queue(rig)):
        assert (shown.accepting, shown.trouble) == (True, "")
    assert (await anext(told)).status == health.SERVING
    job = await rig.submit(spec=large(rig))
    (await rig.executor.execution(job.job_id)).complete()
    assert (await rig.ended(job.job_id)).state == job_pb2.JOB_STATE_COMPLETED


async def test_a_client_that_waits_for_the_server_waits_for_space(rig: Rig) -> None:
    await refuse(rig)
    async with AsyncEvalClient(rig.server.address) as client:
        assert not await client.is_healthy()
        assert (await client.get_queue_status())["trouble"] == REASON
        with pytest.raises(ServerUnavailable, match=r"was not ready within 0\.3 s"):
            await client.wait_for_ready(0.3)
        waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        limit_pages(store_of(rig), 1_000_000)
        await waiting
        assert await client.is_healthy()


async def test_space_does_not_have_a_draining_server_take_jobs(rig: Rig) -> None:
    await rig.running()
    await refuse(rig)
    await rig.server.drain()
    limit_pages(store_of(rig), 1_000_000)
    await until(lambda: store_of(rig).trouble is None)
    assert (await statuses(rig))[health.READY] == health.NOT_SERVING
    shown = await queue(rig)
    assert (shown.accepting, shown.draining, shown.trouble) == (False, True, "")


async def test_a_server_in_trouble_can_be_stopped(rig: Rig) -> None:
    await refuse(rig)
    async with asyncio.timeout(PATIENCE):
        await rig.server.stop(0)
