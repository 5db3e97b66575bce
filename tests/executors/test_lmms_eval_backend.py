"""A job with a backend of lmms-eval: its process is forked from the warm worker, and belongs to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.jobs.events import Completed, Failed, WorkerReport
from lmms_eval_grpc.jobs.results import EvaluationResult
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from tests.executors.conftest import Jobs, wait_until
from tests.support.lmms_eval_package import write_package

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tasks_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_GRPC_LMMS_EVAL", str(write_package(tmp_path_factory.mktemp("site"))))
        made = LocalExecutor(LocalExecutorSettings(include_paths=(tasks_dir,)))
        await made.start()
        await wait_until(lambda: made.warm)
        yield made
        await made.stop()


@pytest.fixture
def jobs(executor: LocalExecutor, tiny_checkpoint: Path, tmp_path: Path) -> Jobs:
    return Jobs(executor, tiny_checkpoint, tmp_path)


async def run(jobs: Jobs, model: str, **model_args: object) -> tuple[WorkerReport, Path]:
    reports, job_dir = await jobs.run(
        EvaluationSpec(model, ("well_behaved",), model_args=model_args, limit_count=20)  # type: ignore[arg-type]
    )
    return reports[-1], job_dir


async def test_a_job_runs_with_it(jobs: Jobs) -> None:
    last, job_dir = await run(jobs, "lmms_eval:talker", pretrained=str(jobs.checkpoint))
    assert isinstance(last, Completed), last
    assert isinstance(last.result, EvaluationResult)
    assert last.result.task_results[0].samples_scored == 20
    assert json.loads(last.result.manifest_json)["model"]["lmms_eval"] == "9.8.7"
    samples = [json.loads(line) for line in (job_dir / "samples.jsonl").read_text().splitlines()]
    assert all(sample["responses"][0].startswith("<(8, 8)>") for sample in samples)
    log = (job_dir / "worker.log").read_text()
    assert "replica 0: lmms_eval.models is imported" in log
    assert "preload" not in log  # it was forked, and imported nothing again


async def test_a_wrong_argument_fails_the_job_and_is_named(jobs: Jobs) -> None:
    last, _ = await run(jobs, "talker", volume=11)
    assert isinstance(last, Failed), last
    assert last.error.reason == "MODEL_LOAD_FAILED"
    assert "volume" in last.error.message
    assert "polite" in last.error.message
