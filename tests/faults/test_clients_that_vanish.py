"""A client that is killed in the middle of its watches leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys

import grpc

from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.scheduler.doubles import PATIENCE
from tests.server.conftest import NewRig, Rig, detail, failure, new_rig

__all__ = ["new_rig"]

WATCHER = """
import sys, threading
from lmms_eval_grpc import EvalClient

client = EvalClient(sys.argv[1])
def watch():
    for event in client.watch_job(sys.argv[2]):
        print(event.sequence, flush=True)
for _ in range(int(sys.argv[3])):
    threading.Thread(target=watch, daemon=True).start()
threading.Event().wait()
"""


async def test_the_watches_of_a_killed_client_are_free_again_and_its_job_goes_on(new_rig: NewRig) -> None:
    rig = await new_rig(max_watches_per_client=3)
    job_id, execution = await rig.running()
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WATCHER, rig.server.address, job_id, "3"), stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    async with asyncio.timeout(60):
        for _ in range(6):  # each of the three sees the job queued and running
            assert await client.stdout.readline()
    refused = await failure(rig.stub.WatchQueue(pb.WatchQueueRequest()))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(refused, "ErrorInfo").reason == "TOO_MANY_WATCHES"

    client.kill()
    await client.wait()
    async with asyncio.timeout(PATIENCE):
        while not await watches(rig):  # noqa: ASYNC110 - the server does not tell
            await asyncio.sleep(0.02)
    execution.complete()
    assert (await rig.ended(job_id)).attempt == 1


async def watches(rig: Rig) -> bool:
    """Whether the queue can be watched."""
    call = rig.stub.WatchQueue(pb.WatchQueueRequest())
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    finally:
        call.cancel()
    return True
