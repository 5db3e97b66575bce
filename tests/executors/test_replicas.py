"""Jobs on two devices: replicas in the worker's process group, forked while the worker has one thread."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.jobs.events import Completed, Failed, Stopped, WorkerReport
from lmms_eval_grpc.jobs.results import EvaluationResult, JobErrorCode
from lmms_eval_grpc.worker import processes
from tests.executors.conftest import Jobs, collect, is_alive, wait_for_log, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def result_of(reports: list[WorkerReport]) -> EvaluationResult:
    assert isinstance(reports[-1], Completed), reports[-1]
    assert isinstance(reports[-1].result, EvaluationResult)
    return reports[-1].result


def responses(job_dir: Path) -> dict[int, list[str]]:
    lines = map(json.loads, (job_dir / "samples.jsonl").read_text().splitlines())
    return {line["doc_id"]: line["responses"] for line in lines}


def family(job_dir: Path) -> list[psutil.Process]:
    """The processes of the job's worker, itself included."""
    identity = processes.read_identity(job_dir)
    assert identity is not None
    return [psutil.Process(process.pid) for process in processes.members(identity)]


def replicas(job_dir: Path) -> list[psutil.Process]:
    return [process for process in family(job_dir) if process.name().startswith("eval-replica")]


async def test_a_job_on_two_devices_scores_as_on_one_and_says_so(jobs: Jobs) -> None:
    more = {"limit_count": 40, "batch_size": 4, "gen_kwargs": {"max_new_tokens": 4}}
    one, one_dir = await jobs.run(jobs.spec("well_behaved", **more))
    two, two_dir = await jobs.run(jobs.spec("well_behaved", num_gpus=2, **more))
    alone, together = result_of(one), result_of(two)
    assert together.task_results[0].metrics == alone.task_results[0].metrics
    assert responses(two_dir) == responses(one_dir)
    assert json.loads(alone.manifest_json)["device"]["replicas"] == 1
    device = json.loads(together.manifest_json)["device"]
    assert (device["type"], device["count"], device["replicas"]) == ("cpu", 2, 2)
    assert not (two_dir / processes.IDENTITY_FILE).exists()


async def test_replicas_are_forked_from_the_warm_worker_belong_to_it_and_print_into_its_log(jobs: Jobs) -> None:
    execution, job_dir = await jobs.start(jobs.spec("dawdle", num_gpus=2, batch_size=1, limit_count=200))
    await wait_for_log(job_dir, "stage: generating")
    identity = processes.read_identity(job_dir)
    assert identity is not None
    found = replicas(job_dir)
    assert len(found) == 2
    (nursery,) = {process.ppid() for process in found}
    assert psutil.Process(nursery).ppid() == identity.pid
    assert {os.getpgid(process.pid) for process in found} == {identity.pgid}
    os.kill(found[0].pid, signal.SIGABRT)
    await wait_for_log(job_dir, r"replica \d: Fatal Python error: Aborted")
    await wait_for_log(job_dir, r"replica \d was killed by SIGABRT; requests that are asked again")
    everybody = family(job_dir)
    await execution.cancel("seen enough")
    reports = await collect(execution)
    assert isinstance(reports[-1], Stopped)
    assert not any(is_alive(process.pid) for process in everybody)


async def test_a_worker_killed_outright_leaves_no_replica_behind(jobs: Jobs) -> None:
    execution, job_dir = await jobs.start(jobs.spec("dawdle", num_gpus=2, batch_size=1, limit_count=200))
    await wait_for_log(job_dir, "stage: generating")
    everybody = family(job_dir)
    assert len(everybody) == 4
    identity = processes.read_identity(job_dir)
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    reports = await collect(execution)
    assert isinstance(reports[-1], Failed)
    assert reports[-1].error.code is JobErrorCode.WORKER_DIED
    assert not any(is_alive(process.pid) for process in everybody)


async def test_a_killed_replica_costs_the_job_nothing_but_time(jobs: Jobs) -> None:
    execution, job_dir = await jobs.start(jobs.spec("dawdle", num_gpus=2, batch_size=1, limit_count=40))
    samples = job_dir / "samples.jsonl"
    await wait_until(lambda: samples.exists() and samples.stat().st_size > 0)
    os.kill(replicas(job_dir)[1].pid, signal.SIGKILL)
    result = result_of(await collect(execution))
    assert (result.task_results[0].samples_scored, result.task_results[0].samples_errored) == (40, 0)
    assert len(samples.read_text().splitlines()) == 40


async def test_without_a_template_replicas_import_for_themselves(jobs: Jobs, tasks_dir: Path, tmp_path: Path) -> None:
    settings = LocalExecutorSettings(devices=("cpu", "cpu"), include_paths=(tasks_dir,), use_template=False)
    cold = LocalExecutor(settings)
    await cold.start()
    try:
        reports, _ = await Jobs(cold, jobs.checkpoint, tmp_path / "cold").run(jobs.spec("well_behaved", num_gpus=2))
    finally:
        await cold.stop()
    assert json.loads(result_of(reports).manifest_json)["device"]["replicas"] == 2
