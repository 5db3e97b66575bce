"""Executors whose template dies, hangs or cannot be used, and servers that die."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from lmms_eval_grpc.executors import template_child
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.jobs.events import Completed, Failed, Stopped
from lmms_eval_grpc.worker import processes
from tests.executors.conftest import Jobs, collect, descendants, is_alive, wait_for_log, wait_until

pytestmark = pytest.mark.slow

OpenJobs = Callable[..., AbstractAsyncContextManager[Jobs]]


@pytest.fixture
def open_jobs(tasks_dir: Path, tiny_checkpoint: Path, tmp_path: Path) -> OpenJobs:
    @asynccontextmanager
    async def open_jobs(*, use_template: bool = True) -> AsyncIterator[Jobs]:
        settings = LocalExecutorSettings(devices=("cpu",), include_paths=(tasks_dir,), use_template=use_template)
        executor = LocalExecutor(settings)
        await executor.start()
        try:
            yield Jobs(executor, tiny_checkpoint, tmp_path)
        finally:
            await executor.stop()
            assert descendants() == []

    return open_jobs


async def test_a_job_submitted_while_the_template_imports_waits_for_it(open_jobs: OpenJobs) -> None:
    async with open_jobs() as jobs:
        assert not jobs.executor.warm
        await wait_until(lambda: len(descendants()) == 1)
        (template,) = descendants()
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)
        assert jobs.executor.warm
        assert descendants() == [template], "a second process would have paid for the imports again"


async def test_a_job_cancelled_while_the_template_imports_stops_at_once(open_jobs: OpenJobs) -> None:
    async with open_jobs() as jobs:
        await wait_until(lambda: len(descendants()) == 1)
        (template,) = descendants()
        execution, job_dir = await jobs.start(jobs.spec("well_behaved"))
        await asyncio.sleep(0.05)
        await execution.cancel("")
        assert isinstance((await collect(execution))[-1], Stopped)
        assert not jobs.executor.warm
        assert not (job_dir / "worker.log").exists()
        await asyncio.sleep(0.5)
        assert descendants() == [template], "nobody asked for a second template"


async def test_a_template_that_was_killed_is_restarted_and_its_jobs_fail_in_words(
    open_jobs: OpenJobs,
) -> None:
    async with open_jobs() as jobs:
        await wait_until(lambda: jobs.executor.warm)
        (template,) = descendants()
        execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
        orphans = [int(pid) for pid in (await wait_for_log(job_dir, r"children: (\d+) (\d+)")).groups()]
        template.kill()
        failed = (await collect(execution))[-1]
        assert isinstance(failed, Failed)
        assert failed.error.reason == "WORKER_KILLED"
        assert "template" in failed.error.message
        assert not any(map(is_alive, orphans))
        # Whether the new template is up by then or not.
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)
        await wait_until(lambda: jobs.executor.warm)
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)


async def test_a_template_that_hangs_is_replaced_and_the_job_starts_without_it(
    open_jobs: OpenJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_child, "FORK_TIMEOUT", 2.0)
    async with open_jobs() as jobs:
        await wait_until(lambda: jobs.executor.warm)
        (template,) = descendants()
        template.suspend()
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)
        await wait_until(lambda: not is_alive(template.pid))


FLAWS = {
    "starts a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=[600], daemon=True).start()\n",
    "crashes": "import os\nif open('/proc/self/comm').read() == 'eval-template\\n': os._exit(9)\n",
}


@pytest.mark.parametrize("flaw", FLAWS)
async def test_a_library_that_spoils_the_template_costs_time_but_no_job(
    open_jobs: OpenJobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flaw: str
) -> None:
    (tmp_path / "soundfile.py").write_text(FLAWS[flaw])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with open_jobs() as jobs:
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)
        assert not jobs.executor.warm


@pytest.mark.parametrize("use_template", [True, False])
async def test_stopping_reports_running_jobs_as_stopped_and_leaves_nothing(
    open_jobs: OpenJobs, use_template: bool
) -> None:
    async with open_jobs(use_template=use_template) as jobs:
        execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
        orphans = [int(pid) for pid in (await wait_for_log(job_dir, r"children: (\d+) (\d+)")).groups()]
        await jobs.executor.stop()
        assert descendants() == []
        assert not any(map(is_alive, orphans))
        assert isinstance((await collect(execution))[-1], Stopped)
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Stopped)


async def test_stopping_an_executor_that_was_never_started_or_still_imports_is_fine() -> None:
    await LocalExecutor().stop()
    executor = LocalExecutor(LocalExecutorSettings(devices=("cpu",)))
    await executor.start()
    began = time.monotonic()
    await executor.stop()
    assert descendants() == []
    assert time.monotonic() - began < 60


SERVER = """
import asyncio, sys, time
from pathlib import Path
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import JobState

async def serve(tasks_dir, checkpoint, job_dir, use_template):
    settings = LocalExecutorSettings(("cpu",), (Path(tasks_dir),), use_template=use_template == "True")
    executor = LocalExecutor(settings)
    await executor.start()
    spec = EvaluationSpec("huggingface", ("hang_with_children",), {"pretrained": checkpoint}, limit_count=1)
    job = Job("orphaned", spec, JobState.RUNNING, time.time(), 1, attempt=1)
    execution = await executor.execute(job, executor.devices, Path(job_dir))
    async for report in execution.reports():
        pass

# No __main__ guard on purpose: nothing may import this script again.
asyncio.run(serve(*sys.argv[1:]))
"""


@pytest.mark.parametrize("use_template", [True, False])
@pytest.mark.parametrize("frozen", [False, True])
async def test_of_a_server_that_was_killed_nothing_is_left(
    tasks_dir: Path, tiny_checkpoint: Path, tmp_path: Path, use_template: bool, frozen: bool
) -> None:
    script, job_dir = tmp_path / "server.py", tmp_path / "job"
    script.write_text(SERVER)
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tasks_dir), str(tiny_checkpoint), str(job_dir), str(use_template)
    )
    await wait_for_log(job_dir, r"children: (\d+) (\d+)")
    family = psutil.Process(server.pid).children(recursive=True)
    assert len(family) == 4, "the template, the worker and its two children"
    identity = processes.read_identity(job_dir)
    assert identity is not None
    if frozen:
        os.kill(identity.pid, signal.SIGSTOP)
    server.kill()
    await server.wait()
    await wait_until(lambda: not any(is_alive(process.pid) for process in family))
