"""A store that is damaged or held by somebody else: the server says so, and overwrites nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.server.conftest import NewRig, detail, failure, new_rig

__all__ = ["new_rig"]

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"PRAGMA locking_mode = {sys.argv[2]}")
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def held(store: Path, locking: str) -> Iterator[subprocess.Popen[bytes]]:
    """While another process writes to the store (``normal``) or lets nobody even read it (``exclusive``)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store), locking], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.communicate(b"")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name.startswith("jobs.sqlite3") and not path.name.endswith("-shm")
    }


async def filled(new_rig: NewRig) -> Path:
    """The store of a server that had a hundred jobs and was stopped."""
    rig = await new_rig()
    for _ in range(100):
        await rig.submit(labels={"padding": "x" * 200})
    await rig.server.stop(0)
    return rig.server.state_dir / "jobs.sqlite3"


@pytest.mark.parametrize("damage", ["truncated", "garbled head", "garbled middle", "another file"])
async def test_a_server_does_not_start_on_a_damaged_store_and_leaves_it_as_it_is(new_rig: NewRig, damage: str) -> None:
    store = await filled(new_rig)
    content = bytearray(store.read_bytes())
    assert len(content) > 64 * 1024
    match damage:
        case "truncated":
            del content[len(content) // 2 :]
        case "garbled head":
            content[:100] = b"\xff" * 100
        case "garbled middle":
            content[8192:16384] = b"\xa5" * 8192
        case "another file":
            content = bytearray(b"not a database at all\n" * 1000)
    store.write_bytes(content)
    before = digests(store.parent)
    for _ in range(2):
        with pytest.raises(ServerStartError, match="damaged; put a backup in its place, or move it away"):
            await new_rig()
    assert digests(store.parent) == before
    # The remedy is one.
    store.rename(store.with_name("damaged"))
    for beside in store.parent.glob("jobs.sqlite3-*"):
        beside.unlink()
    rig = await new_rig()
    await rig.submit()


async def test_a_store_that_is_held_makes_requests_fail_and_jobs_wait_until_it_is_let_go(new_rig: NewRig) -> None:
    rig = await new_rig()
    running, execution = await rig.running()
    waiting = await rig.submit()
    with held(rig.server.state_dir / "jobs.sqlite3", "normal"):
        execution.complete()
        refused = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec())))
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(refused, "ErrorInfo").reason == "STORE_UNAVAILABLE"
        assert detail(refused, "RetryInfo").retry_delay.seconds > 0
        job = await rig.get(running)
        assert job.state == job_pb2.JOB_STATE_RUNNING, "its end is not recorded yet, and so not told"
    assert (await rig.ended(running)).state == job_pb2.JOB_STATE_COMPLETED
    (await rig.executor.execution(waiting.job_id)).complete()
    assert (await rig.ended(waiting.job_id)).state == job_pb2.JOB_STATE_COMPLETED


async def test_a_server_does_not_start_on_a_store_that_is_held_and_does_when_it_is_let_go(new_rig: NewRig) -> None:
    store = await filled(new_rig)
    with held(store, "exclusive"), pytest.raises(ServerStartError, match="another process holds the database; end it"):
        await new_rig()
    rig = await new_rig()
    assert len(rig.server._scheduler.queue().queued) + len(rig.server._scheduler.queue().running) == 100
