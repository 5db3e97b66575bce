"""Real executors with real workers, and tasks that go wrong in real ways."""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
import yaml

import lmms_eval_grpc
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.executors.local_worker import LocalExecution
from lmms_eval_grpc.jobs.events import WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec
from lmms_eval_grpc.jobs.state import JobState
from tests.executors import misbehaviour

PATIENCE = 120.0
BEHAVIOURS = [
    name
    for name, function in inspect.getmembers(misbehaviour, inspect.isfunction)
    if name not in ("doc_to_visual", "doc_to_target")
]


_of_other_modules: set[psutil.Process] = set()


@pytest.fixture(scope="module", autouse=True)
def processes_of_other_modules() -> None:
    """Notes what runs below this process before a module's tests begin; they do not answer for it."""
    _of_other_modules.update(psutil.Process().children(recursive=True))


@pytest.fixture(scope="session")
def tasks_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task per function of :mod:`tests.executors.misbehaviour`, named after it, on the real digits."""
    folder = tmp_path_factory.mktemp("tasks")
    digits = Path(lmms_eval_grpc.__file__).parent / "benchmarks" / "handwritten_digits"
    shutil.copy(digits / "test.parquet", folder)
    shutil.copy(misbehaviour.__file__, folder / "utils.py")
    whole = (digits / "handwritten_digits.yaml").read_text()
    for name in BEHAVIOURS:
        text = re.sub(r"^task: .*$", f"task: {name}", whole, flags=re.MULTILINE)
        text = text.replace("utils.doc_to_text", f"utils.{name}").replace("tag: digits\n", "")
        text = re.sub(r"^lmms_eval_specific_kwargs:\n(  .*\n)+", "", text, flags=re.MULTILINE)
        (folder / f"{name}.yaml").write_text(text)
    assert yaml.safe_load(text.replace("!function ", ""))["doc_to_text"] == f"utils.{BEHAVIOURS[-1]}"
    return folder


class Jobs:
    """Runs jobs on an executor, each in a folder of its own."""

    def __init__(self, executor: LocalExecutor, checkpoint: Path, folder: Path) -> None:
        self.executor = executor
        self.checkpoint = checkpoint
        self.folder = folder
        self.count = 0

    def spec(self, task: str, **more: object) -> EvaluationSpec:
        values = {"model_args": {"pretrained": str(self.checkpoint)}, "limit_count": 8, **more}
        return EvaluationSpec("huggingface", (task,), **values)  # type: ignore[arg-type]

    def new_id(self) -> str:
        """Also unlike those of tests that run at the same time: workers are known, and killed, by their jobs' ids."""
        return f"{self.folder.name}-{secrets.token_hex(4)}"

    async def start(
        self, spec: JobSpec, *, attempt: int = 1, job_dir: Path | None = None
    ) -> tuple[LocalExecution, Path]:
        self.count += 1
        job_dir = job_dir or self.folder / f"job-{self.count}"
        job = Job(self.new_id(), spec, JobState.RUNNING, time.time(), self.count, attempt=attempt)
        return await self.executor.execute(job, self.executor.devices[: job.slots_needed], job_dir), job_dir

    async def run(self, spec: JobSpec, **more: int) -> tuple[list[WorkerReport], Path]:
        execution, job_dir = await self.start(spec, **more)
        return await collect(execution), job_dir


async def collect(execution: LocalExecution) -> list[WorkerReport]:
    """Everything that an execution reports, to its end."""
    async with asyncio.timeout(PATIENCE):
        return [report async for report in execution.reports()]


async def wait_until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


async def wait_for_log(job_dir: Path, pattern: str) -> re.Match[str]:
    """Waits until the worker's log matches."""
    path = job_dir / "worker.log"
    found: list[re.Match[str]] = []

    def look() -> bool:
        match = re.search(pattern, path.read_text()) if path.exists() else None
        found.extend([match] if match else [])
        return match is not None

    await wait_until(look)
    return found[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tasks_dir: Path) -> AsyncIterator[LocalExecutor]:
    """Warm, with two slots; a module's tests share it."""
    made = LocalExecutor(LocalExecutorSettings(devices=("cpu", "cpu"), include_paths=(tasks_dir,)))
    await made.start()
    await wait_until(lambda: made.warm)
    yield made
    await made.stop()


@pytest.fixture
def jobs(executor: LocalExecutor, tiny_checkpoint: Path, tmp_path: Path) -> Jobs:
    return Jobs(executor, tiny_checkpoint, tmp_path)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants() -> list[psutil.Process]:
    """What lives below this process: templates, workers, and orphans of theirs, which a template adopts.

    Without what other modules' tests have left, and without the helpers of Python's multiprocessing, which stay for
    the whole session once anything has used it.
    """
    running = psutil.Process().children(recursive=True)
    return [process for process in running if process not in _of_other_modules and _counts(process)]


def _counts(process: psutil.Process) -> bool:
    try:
        return is_alive(process.pid) and not any("multiprocessing" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False
