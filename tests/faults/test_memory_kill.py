"""The kernel kills a worker for want of memory, in a control group that a whole real server runs in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmms_eval_grpc import AsyncEvalClient
from lmms_eval_grpc.v1 import job_pb2
from tests.faults import echo_model
from tests.faults.life import Life

LIMIT = 1 << 30
TAKE = """print("about to take too much memory", flush=True)
        held = [b"x" * (1 << 20) for _ in range(4096)]
        return str(len(held))"""


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group that allows a gibibyte; skips where none can be made."""
    places = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
    for root, limit in places:
        group = root / f"lmms-eval-grpc-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(LIMIT))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here")


async def test_a_worker_that_the_kernel_kills_for_memory_fails_its_job_with_the_remedy_and_the_next_one_runs(
    tmp_path: Path, memory_group: Path
) -> None:
    environment = echo_model.install(tmp_path)
    (tmp_path / "evidence").mkdir()
    tasks = tmp_path / "tasks"
    (tasks / "greedy.py").write_text(echo_model.TASK_CODE.replace('return doc["word"]', TAKE))
    (tasks / "greedy.yaml").write_text(echo_model.TASK.replace("fault_words", "greedy"))
    into_group = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(memory_group))
    flags = ("--devices", "cpu", "--no-use-template", "--include-path", str(tasks))
    life = Life(tmp_path, environment, flags, into_group)
    life.begin()
    try:
        async with AsyncEvalClient(life.address, reconnect_timeout=None) as client:
            await client.wait_for_ready(120)
            jobs = []
            for task in ("greedy", "fault_words"):
                model_args = {"job": task, "evidence": str(tmp_path / "evidence")}
                jobs.append((await client.evaluate("fault_echo", [task], model_args, limit=4))["job_id"])
            for job_id in jobs:
                async for _ in client.watch_job(job_id):
                    pass
            killed, healthy = [await client.get(job_id) for job_id in jobs]
        await life.end()
    finally:
        life.kill_all()
    assert killed.state == job_pb2.JOB_STATE_FAILED
    assert (killed.error.code, killed.error.reason) == (job_pb2.JOB_ERROR_CODE_OUT_OF_MEMORY, "KILLED_FOR_MEMORY")
    assert "smaller batch_size" in killed.error.message
    assert "about to take too much memory" in killed.error.log_tail
    assert healthy.state == job_pb2.JOB_STATE_COMPLETED
    assert life.starts == 1, "the server went on"
