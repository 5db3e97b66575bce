"""A job's own inference server ends with the job, however that ends."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.jobs.events import Completed, Failed, Stopped
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.worker import processes
from tests.executors.conftest import Jobs, collect, descendants, wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor() -> AsyncIterator[LocalExecutor]:
    made = LocalExecutor(LocalExecutorSettings(devices=("cpu",), use_template=False))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def jobs(executor: LocalExecutor, tiny_checkpoint: Path, tmp_path: Path) -> Jobs:
    return Jobs(executor, tiny_checkpoint, tmp_path)


def served(jobs: Jobs) -> EvaluationSpec:
    return replace(jobs.spec("handwritten_digits"), model="transformers_serve")


def of_server() -> list[psutil.Process]:
    """The server's processes, its guard among them."""
    found = []
    for process in descendants():
        try:
            if "transformers.cli.transformers" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def test_a_job_on_its_own_server_completes_and_has_its_log(jobs: Jobs) -> None:
    reports, job_dir = await jobs.run(served(jobs))
    assert isinstance(reports[-1], Completed)
    assert not of_server()
    log = (job_dir / "worker.log").read_text()
    assert "[transformers]" in log
    assert "POST /v1/chat/completions" not in log


@pytest.mark.parametrize("end", ["killed", "cancelled"])
async def test_nothing_of_the_server_is_left_when_the_job_ends_early(jobs: Jobs, end: str) -> None:
    execution, job_dir = await jobs.start(served(jobs))
    await wait_until(lambda: len(of_server()) == 2)
    if end == "killed":
        identity = processes.read_identity(job_dir)
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)
    else:
        await execution.cancel("enough")
    reports = await collect(execution)
    assert isinstance(reports[-1], Failed if end == "killed" else Stopped)
    assert not of_server()
