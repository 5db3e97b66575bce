"""The disk of the state folder is full, and then it is not: a real small file system, a real server, real workers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc import AsyncEvalClient
from lmms_eval_grpc.client.errors import EvalServiceError
from lmms_eval_grpc.v1 import job_pb2
from tests.faults import echo_model
from tests.faults.life import Life
from tests.support.small_disk import mounted

PATIENCE = 240.0
SIZE = 6 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes; skips where none can be mounted."""
    with mounted(tmp_path / "state", f"size={SIZE}") as folder:
        yield folder


@pytest.fixture
async def life(small_disk: Path, tmp_path: Path) -> AsyncIterator[Life]:
    made = Life(tmp_path, echo_model.install(tmp_path), ["--devices", "cpu", "--include-path", str(tmp_path / "tasks")])
    (tmp_path / "evidence").mkdir()
    made.begin()
    yield made
    await made.end()
    left = made.everything()
    made.kill_all()
    assert not left


def request(folder: Path, samples: int, seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    identity = str(uuid.UUID(int=random.getrandbits(128), version=4))
    model_args = {"job": identity, "evidence": str(folder / "evidence"), "seconds": seconds}
    return {
        **{"model": "fault_echo", "tasks": ["fault_words"], "limit": samples, "model_args": model_args},
        **{"request_id": identity, **more},
    }


def fill(disk: Path) -> Path:
    """Takes all the space that is left."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as file:
        for block in (1 << 16, 4096, 1):
            try:
                while True:
                    file.write(b"x" * block)
            except OSError:
                continue
    return path


def answered(life: Life, job_id: str) -> int:
    log = life.state_dir / "jobs" / job_id / "run_log.jsonl"
    return log.read_text().count('"kind": "answer"') if log.exists() else 0


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.02)


async def outcome(client: AsyncEvalClient, job_id: str) -> job_pb2.Job:
    async with asyncio.timeout(PATIENCE):
        async for _ in client.watch_job(job_id):
            pass
    return await client.get(job_id)


@pytest.mark.timeout(900)
async def test_a_full_disk_stops_nothing_that_was_acknowledged_and_all_goes_on_when_there_is_space(
    life: Life, small_disk: Path, tmp_path: Path
) -> None:
    async with AsyncEvalClient(life.address, timeout=30.0, reconnect_timeout=None) as client:
        await client.wait_for_ready(PATIENCE)
        first = (await client.evaluate(**request(tmp_path, 4)))["job_id"]
        assert (await outcome(client, first)).state == job_pb2.JOB_STATE_COMPLETED

        # One job runs and two wait when the last byte goes.
        running = (await client.evaluate(**request(tmp_path, 40, seconds=0.2)))["job_id"]
        retried = (await client.evaluate(**request(tmp_path, 6, retry_policy={"max_attempts": 9})))["job_id"]
        waiting = (await client.evaluate(**request(tmp_path, 6)))["job_id"]
        await until(lambda: answered(life, running) >= 2)
        filler = fill(small_disk)
        recorded = answered(life, running)

        # The server answers meanwhile; what it cannot keep it does not acknowledge.
        assert (await client.get(first)).state == job_pb2.JOB_STATE_COMPLETED
        known = {job.job_id async for job in client.list_jobs()}
        assert known == {first, running, retried, waiting}
        accepted, refused = [], []
        # The store's write-ahead log may have room for some more.
        while len(refused) < 3 and len(accepted) < 500:
            wanted = request(tmp_path, 2, labels={"padding": "x" * 250})
            try:
                accepted.append((await client.evaluate(**wanted))["job_id"])
            except EvalServiceError as error:
                refused.append((wanted, error.code, error.reason))
        assert refused, "the file system is full"
        assert {tuple(why) for _, *why in refused} == {("UNAVAILABLE", "STORE_UNAVAILABLE")}
        assert (await client.get_queue_status())["queued_jobs"]

        filler.unlink()
        accepted += [(await client.evaluate(**wanted))["job_id"] for wanted, *_ in refused]
        assert len(set(accepted)) == len(accepted)
        for job_id in (retried, waiting, *accepted):
            job = await outcome(client, job_id)
            if job.state == job_pb2.JOB_STATE_FAILED:
                # It had its turn while the disk was full.
                assert job.error.reason in ("DISK_FULL", "WORKER_NOT_STARTED"), job.error
                assert "space" in job.error.message
            else:
                assert job.state == job_pb2.JOB_STATE_COMPLETED
        ended = await outcome(client, running)
        if ended.state == job_pb2.JOB_STATE_FAILED:
            assert (ended.error.code, ended.error.reason) == (job_pb2.JOB_ERROR_CODE_INTERNAL, "DISK_FULL")
            assert "free space" in ended.error.message
        assert answered(life, running) >= recorded
        last = (await client.evaluate(**request(tmp_path, 3)))["job_id"]
        assert (await outcome(client, last)).state == job_pb2.JOB_STATE_COMPLETED


@pytest.mark.timeout(900)
async def test_a_server_that_dies_on_a_full_disk_has_all_that_it_acknowledged_when_there_is_space(
    life: Life, small_disk: Path, tmp_path: Path
) -> None:
    async with AsyncEvalClient(life.address, timeout=30.0, reconnect_timeout=None) as client:
        await client.wait_for_ready(PATIENCE)
        wanted = request(tmp_path, 20, seconds=0.1, retry_policy={"max_attempts": 9, "retry_on": ["internal"]})
        jobs = [(await client.evaluate(**wanted))["job_id"]]
        jobs += [(await client.evaluate(**request(tmp_path, 4)))["job_id"] for _ in range(3)]
        await until(lambda: answered(life, jobs[0]) >= 2)
        filler = fill(small_disk)
        assert life.process is not None
        life.process.send_signal(signal.SIGKILL)
        starts = life.starts
        await until(lambda: life.starts > starts)
        await asyncio.sleep(1.0)
        filler.unlink()
        os.sync()
        for job_id in jobs:
            assert (await outcome(client, job_id)).state == job_pb2.JOB_STATE_COMPLETED, life.log()[-3000:]
        assert answered(life, jobs[0]) == 20, "every sample was answered once"
