"""The Ray executor on a real cluster: folders that nodes do not see, a driver that dies, clusters that are missing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from lmms_eval_grpc.executors.ray import driver_process
from lmms_eval_grpc.executors.ray.executor import ClusterUnavailable, RayExecution, RayExecutor, RayExecutorSettings
from lmms_eval_grpc.jobs.events import Completed, HostLost, NotStarted, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import EvaluationResult, Progress
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import JobState
from tests.executors.conftest import descendants, wait_for_log, wait_until
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")
# A busy machine takes minutes to start a cluster.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    made = RayCluster(nodes=2)
    yield made
    made.shut_down()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(
    cluster: RayCluster, tasks_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RayExecutor]:
    """Its driver has a working folder of its own, so that ``/proc/self/cwd`` is another folder to it than to nodes."""
    made = RayExecutor(RayExecutorSettings(cluster.address, include_paths=(tasks_dir,), lease=5.0, cancel_grace=0.5))
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("server"))
    try:
        await made.start()
    finally:
        os.chdir(before)
    yield made
    await made.stop()


def unseen_folder(executor: RayExecutor, name: str) -> tuple[Path, Path]:
    """A job's folder by a path that leads elsewhere on the nodes, and by one that leads there from here."""
    assert executor.driver_pid is not None
    here = Path(f"/proc/{executor.driver_pid}/cwd").readlink() / name
    here.mkdir(exist_ok=True)
    return Path("/proc/self/cwd") / name, here


MANY = 150
"""Documents that take a worker 15 s at least: a node is dead by then, on a slow machine too."""


async def start(
    executor: RayExecutor, checkpoint: Path, job_dir: Path, task: str = "dawdle", *, attempt: int = 1, limit: int = 40
) -> RayExecution:
    arguments = {"pretrained": str(checkpoint)}
    spec = EvaluationSpec("huggingface", (task,), arguments, limit_count=limit, batch_size=2)
    job = Job(job_dir.name, spec, JobState.RUNNING, time.time(), 1, attempt=attempt)
    return await executor.execute(job, executor.devices[:1], job_dir)


async def collect(execution: RayExecution) -> list[WorkerReport]:
    async with asyncio.timeout(600):
        return [report async for report in execution.reports()]


def answers(folder: Path) -> list[int]:
    """Documents in the run log, in the order in which they were answered."""
    path = folder / "run_log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record["doc_id"] for record in records if record["kind"] == "answer"]


async def test_the_answers_of_a_lost_node_are_here_though_it_shared_no_folder(
    executor: RayExecutor, cluster: RayCluster, tiny_checkpoint: Path
) -> None:
    there, here = unseen_folder(executor, "unshared")
    first = await start(executor, tiny_checkpoint, there, limit=MANY)
    lost = executor.devices[0].host
    await wait_until(lambda: len(answers(here)) >= 4)
    await wait_for_log(here, "generating")
    cluster.kill_node(lost)
    reports = await collect(first)
    assert isinstance(reports[-1], HostLost)
    assert lost in reports[-1].reason
    before = answers(here)
    assert 4 <= len(before) < MANY
    await wait_until(lambda: all(device.host != lost for device in executor.devices))

    second = await start(executor, tiny_checkpoint, there, attempt=2, limit=MANY)
    reports = await collect(second)
    assert isinstance(reports[-1], Completed)
    result = reports[-1].result
    assert isinstance(result, EvaluationResult)
    progress = [report for report in reports if isinstance(report, Progress)]
    assert progress[-1].samples_resumed == len(before)
    after = answers(here)
    assert after[: len(before)] == before
    assert sorted(after) == list(range(MANY)), "every sample was answered once"
    assert (here / Path(result.results_path).relative_to(there)).is_file()
    assert len((here / "samples.jsonl").read_text().splitlines()) == MANY
    assert not (here / "worker.json").exists()


async def test_a_driver_that_dies_is_replaced_and_its_jobs_are_lost_but_not_their_workers_left(
    executor: RayExecutor,
    cluster: RayCluster,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver_process, "FIRST_DELAY", 0.1)
    # The actor that the test before has left, should it be there still, is replaced too.
    for process in cluster.processes():
        if "JobActor" in process.name() or "JobActor" in " ".join(process.cmdline()):
            process.kill()
    execution = await start(executor, tiny_checkpoint, tmp_path)
    await wait_until(lambda: len(answers(tmp_path)) >= 4)
    worker = psutil.Process(json.loads((tmp_path / "worker.json").read_text())["pid"])
    driver = executor.driver_pid
    assert driver is not None
    os.kill(driver, signal.SIGKILL)
    reports = await collect(execution)
    assert isinstance(reports[-1], HostLost)
    assert "driver" in reports[-1].reason
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    await wait_until(lambda: bool(executor.devices))
    assert executor.driver_pid != driver
    # A later server would find the actor of that job gone.
    await executor.clear_leftovers([tmp_path])


async def test_gpus_that_ray_grants_but_the_driver_does_not_show_are_explained(
    executor: RayExecutor, cluster: RayCluster, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    name = cluster.add_node(gpus=2)
    await wait_until(lambda: any(device.host == name for device in executor.devices))
    assert [device.name for device in executor.devices] == [f"{name}/cuda:0", f"{name}/cuda:1"], (
        "nodes without GPUs run nothing in a cluster that has some"
    )
    reports = await collect(await start(executor, tiny_checkpoint, tmp_path))
    assert isinstance(reports[-1], NotStarted)
    assert f"{name}: Ray granted 1 GPUs, but there is no device 'cuda' here" in reports[-1].reason
    assert [device.name for device in executor.devices] == [f"{name}/cuda:1"], "the next job tries another"


async def test_a_device_of_a_node_that_has_just_left_starts_nothing(
    executor: RayExecutor, cluster: RayCluster, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (device, *_) = executor.devices
    cluster.kill_node(device.host)
    await wait_until(lambda: device not in executor.devices)
    job = Job("late", EvaluationSpec("huggingface", ("dawdle",)), JobState.RUNNING, time.time(), 1, attempt=1)
    reports = await collect(await executor.execute(job, [device], tmp_path))
    assert reports == [NotStarted(f"the node of {device.name} has left the cluster")]


async def test_without_an_address_a_cluster_is_started_and_ended() -> None:
    before = {process.pid for process in descendants()}
    executor = await started_here()
    assert executor.devices
    assert {device.kind for device in executor.devices} <= {"cpu", "cuda"}
    own = [process for process in descendants() if process.pid not in before]
    assert own
    await executor.stop()
    await wait_until(lambda: not any(process.is_running() for process in own))


async def started_here() -> RayExecutor:
    """An executor with a cluster of its own, which a busy machine may not bring up in the time that Ray gives it."""
    for _ in range(3):
        with contextlib.suppress(ClusterUnavailable):
            executor = RayExecutor(RayExecutorSettings())
            await executor.start()
            return executor
    executor = RayExecutor(RayExecutorSettings())
    await executor.start()
    return executor


async def test_a_cluster_that_does_not_answer_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterUnavailable, match=f"no Ray cluster could be had at '{address}': Connection"):
            await RayExecutor(RayExecutorSettings(address)).start()


async def test_where_ray_is_not_installed_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ClusterUnavailable, match=r"pip install 'lmms-eval-grpc\[ray\]'"):
        await RayExecutor(RayExecutorSettings()).start()
