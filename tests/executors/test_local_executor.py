"""Jobs in real worker processes, forked from a real warm template."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lmms_eval_grpc.executors.base import Execution, Executor
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.executors.log_bound import bound_log
from lmms_eval_grpc.jobs.events import Completed, Failed, Stopped, WorkerReport
from lmms_eval_grpc.jobs.results import EvaluationResult, JobErrorCode, JobStage, Progress, TaskResult, Verdict
from lmms_eval_grpc.jobs.spec import MergeSpec
from lmms_eval_grpc.worker import processes
from tests.executors.conftest import Jobs, collect, descendants, is_alive, wait_for_log, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def last_error(reports: list[WorkerReport]) -> Failed:
    assert isinstance(reports[-1], Failed), reports[-1]
    return reports[-1]


def scores(result: EvaluationResult) -> list[tuple[str, float, int]]:
    return [(metric.name, metric.value, metric.sample_count) for task in result.task_results for metric in task.metrics]


STAGES = [stage for stage in JobStage if stage is not JobStage.MERGING]
"""Those of an evaluation whose checkpoint is whole."""


async def test_a_job_reports_its_stages_in_order_then_its_task_then_its_result(jobs: Jobs) -> None:
    reports, job_dir = await jobs.run(jobs.spec("well_behaved"))
    stages = [report.stage for report in reports if isinstance(report, Progress)]
    assert list(dict.fromkeys(stages)) == STAGES
    assert stages == sorted(stages, key=list(JobStage).index)
    generated = [report for report in reports if isinstance(report, Progress) and report.stage is JobStage.SCORING]
    assert (generated[-1].samples_done, generated[-1].samples_total) == (8, 8)
    (task,) = (report for report in reports if isinstance(report, TaskResult))
    assert (task.task, task.samples_asked, task.samples_scored) == ("well_behaved", 8, 8)
    completed = reports[-1]
    assert isinstance(completed, Completed)
    assert isinstance(completed.result, EvaluationResult)
    assert completed.result.task_results == (task,)
    assert "exact_match,none" in json.loads(completed.result.results_json)["results"]["well_behaved"]
    assert json.loads(completed.result.manifest_json)
    assert Path(completed.result.results_path).is_relative_to(job_dir / "results")
    assert len((job_dir / "samples.jsonl").read_text().splitlines()) == 8
    assert not (job_dir / processes.IDENTITY_FILE).exists()


async def test_a_job_is_compared_with_an_earlier_jobs_folder_and_a_damaged_one_fails_first(jobs: Jobs) -> None:
    _, earlier = await jobs.run(jobs.spec("well_behaved"))
    reports, _ = await jobs.run(jobs.spec("well_behaved", baseline=str(earlier), log_samples=False))
    (task,) = (report for report in reports if isinstance(report, TaskResult))
    found = task.metrics[0].baseline
    assert found is not None
    assert (found.baseline, found.documents, found.difference) == (str(earlier), 8, 0.0)
    assert found.verdict is Verdict.NOT_ENOUGH_EVIDENCE
    completed = reports[-1]
    assert isinstance(completed, Completed)
    assert isinstance(completed.result, EvaluationResult)
    assert completed.result.task_results == (task,)
    assert json.loads(completed.result.results_json)["results"]["well_behaved"]["paired_baseline"] == str(earlier)

    damaged = earlier / "damaged.jsonl"
    damaged.write_text("{")
    reports, _ = await jobs.run(jobs.spec("well_behaved", baseline=str(damaged)))
    failed = last_error(reports)
    assert (failed.error.code, failed.error.reason) == (JobErrorCode.INVALID, "BASELINE_UNREADABLE")
    assert JobStage.LOADING_MODEL not in [report.stage for report in reports if isinstance(report, Progress)]


async def test_the_executor_is_one_in_the_eyes_of_the_type_checker_and_imports_no_model_library(jobs: Jobs) -> None:
    executor: Executor = jobs.executor
    execution: Execution = (await jobs.start(jobs.spec("well_behaved")))[0]
    assert await collect(execution)  # type: ignore[arg-type]
    assert [device.name for device in executor.devices] == ["cpu", "cpu"]


async def test_the_log_tells_the_user_what_happened_and_holds_what_the_task_printed(jobs: Jobs) -> None:
    _, job_dir = await jobs.run(jobs.spec("talk"))
    log = (job_dir / "worker.log").read_text()
    assert log.count("said to standard output: blåbær") >= 8
    assert log.count("said to standard error") >= 8
    for stage in STAGES[1:]:
        assert f"stage: {stage.value}" in log
    assert "talk: exact_match,none = " in log
    assert "completed; results: " in log


async def test_a_worker_that_prints_without_end_fills_no_disk(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = functools.partial(bound_log, max_bytes=4 << 20, kept_head=65536, kept_tail=65536)
    monkeypatch.setattr("lmms_eval_grpc.executors.log_bound.bound_log", bound)
    monkeypatch.setattr("lmms_eval_grpc.executors.log_bound.INTERVAL", 0.05)
    reports, job_dir = await jobs.run(jobs.spec("flood", limit_count=32))
    assert isinstance(reports[-1], Completed)
    status = (job_dir / "worker.log").stat()
    assert status.st_size > 128 << 20
    assert status.st_blocks * 512 < status.st_size / 2
    log = (job_dir / "worker.log").read_bytes()
    assert b"stage: preparing" in log[:65536]
    assert b"bytes of output are left out here" in log[:131072]
    assert b"completed; results" in log[-65536:]


async def test_a_later_attempt_appends_to_the_log_and_takes_up_what_was_answered(jobs: Jobs) -> None:
    spec = jobs.spec("well_behaved")
    first, job_dir = await jobs.run(spec)
    execution, _ = await jobs.start(spec, attempt=2, job_dir=job_dir)
    second = await collect(execution)
    log = (job_dir / "worker.log").read_text()
    assert log.index("attempt 1") < log.index("attempt 2")
    assert max(report.samples_resumed for report in second if isinstance(report, Progress)) == 8
    assert isinstance(first[-1], Completed)
    assert isinstance(second[-1], Completed)


async def test_two_jobs_run_at_once_on_two_slots(jobs: Jobs) -> None:
    both = await asyncio.gather(jobs.run(jobs.spec("dawdle")), jobs.run(jobs.spec("dawdle")))
    for reports, _ in both:
        assert isinstance(reports[-1], Completed)


async def test_a_worker_killed_outright_is_reported_with_its_signal_and_the_end_of_its_log(jobs: Jobs) -> None:
    reports, job_dir = await jobs.run(jobs.spec("kill_itself"))
    error = last_error(reports).error
    assert (error.code, error.reason) == (JobErrorCode.WORKER_DIED, "WORKER_KILLED")
    assert error.details == {"signal": "SIGKILL", "exit_status": "-9"}
    assert "not by the kernel's out-of-memory killer" in error.message
    assert "about to be killed" in error.log_tail
    assert len(error.log_tail.encode()) <= 4096
    assert not (job_dir / processes.IDENTITY_FILE).exists()


async def test_a_crash_is_reported_with_its_signal_and_leaves_a_traceback_in_the_log(jobs: Jobs) -> None:
    reports, _ = await jobs.run(jobs.spec("crash"))
    error = last_error(reports).error
    assert (error.reason, error.details["signal"]) == ("WORKER_KILLED", "SIGSEGV")
    assert "Segmentation fault" in error.log_tail


async def test_a_worker_that_exits_is_reported_with_its_status(jobs: Jobs) -> None:
    reports, _ = await jobs.run(jobs.spec("exit_with_three"))
    error = last_error(reports).error
    assert (error.code, error.reason, error.details) == (
        JobErrorCode.WORKER_DIED,
        "WORKER_EXITED",
        {"exit_status": "3"},
    )


async def test_a_task_that_calls_sys_exit_gets_no_score_for_it(jobs: Jobs) -> None:
    reports, _ = await jobs.run(jobs.spec("call_sys_exit"))
    assert "the task had enough" in last_error(reports).error.message


async def test_an_error_in_words_that_utf_8_cannot_say_is_reported_all_the_same(jobs: Jobs) -> None:
    reports, _ = await jobs.run(jobs.spec("raise_half_a_character"))
    assert "cannot parse the answer '?'" in last_error(reports).error.message


async def test_a_worker_whose_log_cannot_be_written_fails_its_own_job_at_once(jobs: Jobs, tmp_path: Path) -> None:
    job_dir = tmp_path / "in the way"
    (job_dir / "worker.log").mkdir(parents=True)
    execution, _ = await jobs.start(jobs.spec("well_behaved"), job_dir=job_dir)
    error = last_error(await collect(execution)).error
    assert (error.code, error.reason) == (JobErrorCode.WORKER_DIED, "WORKER_NOT_STARTED")
    assert "Is a directory" in error.message
    reports, _ = await jobs.run(jobs.spec("well_behaved"))
    assert isinstance(reports[-1], Completed)


async def test_a_job_that_cannot_run_as_asked_says_so(jobs: Jobs, tmp_path: Path) -> None:
    reports, _ = await jobs.run(jobs.spec("well_behaved", model_args={"pretrained": str(tmp_path / "nothing here")}))
    error = last_error(reports).error
    assert (error.code, error.reason) == (JobErrorCode.INVALID, "MODEL_LOAD_FAILED")
    assert "nothing here" in error.message
    assert "MODEL_LOAD_FAILED" in error.log_tail


async def test_a_merge_that_cannot_be_says_why(jobs: Jobs) -> None:
    reports, _ = await jobs.run(MergeSpec(str(jobs.checkpoint)))
    error = last_error(reports).error
    assert (error.code, error.reason) == (JobErrorCode.INVALID, "NOT_SHARDED")
    assert "whole checkpoint already" in error.message


async def test_a_cancelled_job_stops_at_the_next_batch_and_keeps_what_was_answered(jobs: Jobs) -> None:
    execution, job_dir = await jobs.start(jobs.spec("dawdle", batch_size=1, limit_count=200))
    await wait_for_log(job_dir, "stage: generating")
    await wait_until(lambda: (job_dir / "samples.jsonl").exists() and (job_dir / "samples.jsonl").stat().st_size > 0)
    await execution.cancel("no longer needed")
    reports = await collect(execution)
    assert isinstance(reports[-1], Stopped)
    log = (job_dir / "worker.log").read_text()
    assert "cancellation asked for: no longer needed" in log
    assert "stopped, as asked" in log
    assert 0 < len((job_dir / "samples.jsonl").read_text().splitlines()) < 200


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_worker_that_ignores_its_cancellation_is_killed_with_all_its_children(jobs: Jobs, frozen: bool) -> None:
    execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
    children = [int(pid) for pid in (await wait_for_log(job_dir, r"children: (\d+) (\d+)")).groups()]
    identity = processes.read_identity(job_dir)
    assert identity is not None
    assert all(map(is_alive, [identity.pid, *children]))
    if frozen:
        os.kill(identity.pid, signal.SIGSTOP)
    began = time.monotonic()
    await execution.cancel("")
    await execution.cancel("again")
    reports = await collect(execution)
    assert isinstance(reports[-1], Stopped)
    assert not any(map(is_alive, [identity.pid, *children]))
    assert time.monotonic() - began < 5, "the grace is one second; the rest is the slack of a busy machine"


async def test_a_cancellation_right_after_the_start_leaves_nothing_running(jobs: Jobs) -> None:
    for pause in (0, 0.005, 0.02, 0.05):
        execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
        await asyncio.sleep(pause)
        await execution.cancel("")
        assert isinstance((await collect(execution))[-1], Stopped)
        assert processes.read_identity(job_dir) is None


async def test_a_job_that_was_done_before_it_heard_of_its_cancellation_is_done(jobs: Jobs) -> None:
    execution, job_dir = await jobs.start(jobs.spec("well_behaved"))
    await wait_for_log(job_dir, "completed; results")
    await execution.cancel("too late")
    assert isinstance((await collect(execution))[-1], Completed)


@pytest.mark.parametrize("task", ["leave_children_behind", "leave_a_fork_behind"])
async def test_a_job_is_not_over_before_its_children_are(jobs: Jobs, task: str) -> None:
    before = set(descendants())
    reports, _ = await jobs.run(jobs.spec(task, limit_count=1))
    assert isinstance(reports[-1], Completed)
    assert set(descendants()) - before == set()


async def test_progress_nobody_reads_is_replaced_by_the_newest_and_nothing_else_is_lost(jobs: Jobs) -> None:
    execution, job_dir = await jobs.start(jobs.spec("dawdle", batch_size=1, limit_count=12))
    await wait_for_log(job_dir, "completed; results")
    reports = await collect(execution)
    assert [type(report) for report in reports] == [Progress, TaskResult, Progress, Completed]


async def test_an_undefined_metric_arrives_as_not_a_number(jobs: Jobs) -> None:
    reports, _ = await jobs.run(jobs.spec("well_behaved", limit_count=1))
    completed = reports[-1]
    assert isinstance(completed, Completed)
    assert isinstance(completed.result, EvaluationResult)
    (metric,) = completed.result.task_results[0].metrics
    assert not math.isnan(metric.value)
    assert metric.confidence_lower is None or math.isfinite(metric.confidence_lower)


async def test_without_a_template_a_job_gives_the_same_result(jobs: Jobs, tasks_dir: Path, tmp_path: Path) -> None:
    warm, _ = await jobs.run(jobs.spec("well_behaved"))
    executor = LocalExecutor(LocalExecutorSettings(devices=("cpu",), include_paths=(tasks_dir,), use_template=False))
    await executor.start()
    try:
        assert not executor.warm
        cold, job_dir = await Jobs(executor, jobs.checkpoint, tmp_path / "cold").run(jobs.spec("well_behaved"))
    finally:
        await executor.stop()
    assert isinstance(warm[-1], Completed)
    assert isinstance(cold[-1], Completed)
    assert isinstance(warm[-1].result, EvaluationResult)
    assert isinstance(cold[-1].result, EvaluationResult)
    assert scores(cold[-1].result) == scores(warm[-1].result)
    assert "completed; results" in (job_dir / "worker.log").read_text()


async def test_leftovers_are_killed_and_a_number_used_again_is_not(jobs: Jobs, tmp_path: Path) -> None:
    execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
    children = [int(pid) for pid in (await wait_for_log(job_dir, r"children: (\d+) (\d+)")).groups()]
    identity = processes.read_identity(job_dir)
    assert identity is not None
    innocent = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    reused = processes.WorkerIdentity(innocent.pid, innocent.pid, 1, identity.boot_id, "another-job.1")
    reused_dir, empty_dir = tmp_path / "reused", tmp_path / "empty"
    reused_dir.mkdir()
    processes.write_identity(reused_dir, reused)
    try:
        await jobs.executor.clear_leftovers([job_dir, reused_dir, empty_dir])
        assert not any(map(is_alive, [identity.pid, *children]))
        assert is_alive(innocent.pid)
        assert processes.read_identity(reused_dir) is None
    finally:
        innocent.kill()
        await innocent.wait()
    assert last_error(await collect(execution)).error.reason == "WORKER_KILLED"


async def test_the_event_loop_goes_on_while_jobs_start_run_and_end(jobs: Jobs) -> None:
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)

    beating = asyncio.create_task(beat())
    for _ in range(3):
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)
    beating.cancel()
    assert longest < 1.0


async def test_a_number_of_threads_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="torch_threads must be at least 1"):
        LocalExecutor(LocalExecutorSettings(torch_threads=0))


async def test_the_servers_process_has_no_model_library() -> None:
    code = "import lmms_eval_grpc.executors.local, sys; print([m for m in ('torch', 'transformers', 'datasets', 'grpc')"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"{code} if m in sys.modules])", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.strip() == b"[]"
