"""What crashes leave behind is removed; what may be somebody's results is not."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import MergeMode, RetryPolicy
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import leftovers
from lmms_eval_grpc.scheduler.retention import Collected
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import until


async def ended(service: Service, *files: str) -> tuple[Job, Path]:
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    for name in files:
        path = execution.job_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 100)
    execution.complete()
    return await service.reaches(job.job_id, JobState.COMPLETED), execution.job_dir


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_eval_grpc.scheduler.retry._FIRST_REST", 0.0)


DRAFTS = (
    *("results/.results.json.k3j.partial", "tmp/pip-x/wheel", "worker.tmp"),
    *(".merged_checkpoint.merging/model.safetensors", "merged_checkpoint/config.json"),
)
KEPT = ("samples.jsonl", "results/results.json", "results/tmp/plot.png", "run_log.jsonl", ".hidden/notes.partial")


async def test_a_start_removes_drafts_from_the_folders_of_ended_jobs_only(new_service: NewService) -> None:
    service = await new_service()
    _, folder = await ended(service, *DRAFTS, *KEPT)
    running = await service.submit()
    execution = await service.executor.execution(running.job_id)
    (execution.job_dir / "worker.tmp").write_text("")
    service.executor.kills = False  # as after a crash, it is running still for the store
    await service.stop()
    service = await new_service()
    await until(lambda: not (folder / "worker.tmp").exists() and not (folder / "tmp").exists())
    await service.scheduler.collect_garbage(None, None, False)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == set(KEPT)
    assert (execution.job_dir / "worker.tmp").exists()


@pytest.mark.parametrize("end", ["killed", "retried", "cancelled"])
@pytest.mark.usefixtures("no_rest")
async def test_a_merged_checkpoint_goes_when_its_job_has_ended_however_that_came(service: Service, end: str) -> None:
    """Of a worker that was killed the scheduler alone can remove it: it may be as large as a model."""
    policy = RetryPolicy(2) if end == "retried" else None
    job = await service.submit(merge=MergeMode.AUTO, retry_policy=policy)
    execution = await service.executor.execution(job.job_id)
    drafts = [execution.job_dir / name for name in (scratch.MERGED_CHECKPOINT, ".merged_checkpoint.merging")]
    for folder in drafts:
        folder.mkdir()
        (folder / "model.safetensors").write_text("x" * 100)
    (execution.job_dir / "run_log.jsonl").write_text("{}")
    if end == "cancelled":
        await service.scheduler.cancel(job.job_id, "enough")
    else:
        execution.fail()
    if end == "retried":
        again = await service.executor.execution(job.job_id, 2)
        assert all(folder.exists() for folder in drafts), "the next attempt uses it"
        again.fail()
    await service.reaches(job.job_id, JobState.CANCELLED if end == "cancelled" else JobState.FAILED)
    await until(lambda: not any(folder.exists() for folder in drafts))
    assert (execution.job_dir / "run_log.jsonl").exists()


async def test_a_folder_without_a_job_is_kept_for_a_week_and_then_removed(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "jobs" / "0123456789abcdef"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "results.json").write_text("x" * 1000)
    with caplog.at_level(logging.WARNING):
        assert await service.scheduler.collect_garbage(0, None, False) == Collected()
    assert "0123456789abcdef" in caplog.text
    mark = folder / leftovers.MARK
    assert mark.exists()
    for age, left in ((leftovers.KEPT_WITHOUT_JOB - 60, True), (leftovers.KEPT_WITHOUT_JOB + 60, False)):
        os.utime(mark, (time.time() - age,) * 2)
        collected = await service.scheduler.collect_garbage(0, None, False)
        assert folder.exists() is left
    assert collected.leftovers == ("jobs/0123456789abcdef",)
    assert collected.freed_bytes >= 1000


async def test_a_folder_whose_job_is_back_is_no_leftover_any_more(new_service: NewService, tmp_path: Path) -> None:
    """The database was moved away for a while."""
    service = await new_service()
    job, folder = await ended(service, "results/results.json")
    await service.stop()
    database = tmp_path / "jobs.sqlite3"
    database.rename(tmp_path / "away")
    service = await new_service()
    await until((folder / leftovers.MARK).exists)
    await service.stop()
    os.utime(folder / leftovers.MARK, (0, 0))
    database.unlink()
    (tmp_path / "away").rename(database)
    service = await new_service()
    await until(lambda: not (folder / leftovers.MARK).exists())
    collected = await service.scheduler.collect_garbage(None, None, False)
    assert collected == Collected()
    assert (folder / "results" / "results.json").exists()
    assert (await service.journal.job(job.job_id)).state is JobState.COMPLETED


async def test_a_dry_run_tells_what_would_go_and_touches_nothing(service: Service, tmp_path: Path) -> None:
    job, folder = await ended(service, "worker.tmp", "samples.jsonl")
    orphan = tmp_path / "jobs" / "orphan"
    orphan.mkdir()
    assert await service.scheduler.collect_garbage(0, None, True) == Collected((job.job_id,), (), 200)
    kept = Collected((), (f"jobs/{job.job_id}/worker.tmp",), 100)
    assert await service.scheduler.collect_garbage(1, None, True) == kept
    assert (folder / "worker.tmp").exists()
    assert list(orphan.iterdir()) == []
    assert (await service.journal.job(job.job_id)).state is JobState.COMPLETED
    collected = await service.scheduler.collect_garbage(0, None, False)
    assert (collected.job_ids, collected.freed_bytes) == ((job.job_id,), 200)
    assert not folder.exists()


async def test_garbage_is_chosen_by_number_and_by_age_together(new_service: NewService) -> None:
    service = await new_service(max_finished_jobs=100)
    jobs = [(await ended(service))[0].job_id for _ in range(4)]
    waiting = await service.submit()

    async def chosen(keep: int | None, older_than: float | None) -> list[int]:
        collected = await service.scheduler.collect_garbage(keep, older_than, True)
        return [jobs.index(job_id) for job_id in collected.job_ids]

    assert await chosen(None, None) == []  # as configured
    assert await chosen(3, None) == [0]
    assert await chosen(0, None) == [0, 1, 2, 3]
    assert await chosen(None, 3600) == []
    assert await chosen(0, 3600) == []
    assert await chosen(None, 0) == [0, 1, 2, 3]
    assert await chosen(2, 0) == [0, 1]
    collected = await service.scheduler.collect_garbage(1, None, False)
    assert [jobs.index(job_id) for job_id in collected.job_ids] == [0, 1, 2]
    counts = await service.scheduler.counts()
    assert counts[JobState.COMPLETED] == 1
    assert waiting.job_id in service.scheduler.queue().running + service.scheduler.queue().queued
