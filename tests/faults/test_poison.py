"""Jobs that can only fail, before one that can not: each fails with its reason, and the queue goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.jobs.events import StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.spec import EvaluationSpec, RetryPolicy
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import Journal, Scheduler, SchedulerSettings
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.executors.conftest import PATIENCE, descendants, processes_of_other_modules, tasks_dir

__all__ = ["processes_of_other_modules", "tasks_dir"]


@pytest.fixture
async def scheduler(tmp_path: Path, tasks_dir: Path) -> AsyncIterator[tuple[Scheduler, Journal]]:
    """A scheduler with one slot and a real executor."""
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    executor = LocalExecutor(LocalExecutorSettings(devices=("cpu",), include_paths=(tasks_dir,)))
    made = Scheduler(store, executor, journal, SchedulerSettings(tmp_path / "jobs"))
    await made.start()
    yield made, journal
    await made.stop()
    await store.close()


async def test_jobs_that_can_only_fail_do_not_keep_others_waiting(
    scheduler: tuple[Scheduler, Journal], tiny_checkpoint: Path
) -> None:
    made, journal = scheduler

    async def submit(task: str, retries: int = 1, **more: object) -> Job:
        spec = EvaluationSpec(
            "huggingface",
            (task,),
            {"pretrained": str(tiny_checkpoint)},
            limit_count=4,
            retry_policy=RetryPolicy(retries) if retries > 1 else None,
            **more,  # type: ignore[arg-type]
        )
        return await made.submit(spec, priority=1 if retries > 1 else 0)

    async def ended(job: Job) -> Job:
        log = await journal.log(job.job_id)
        async with asyncio.timeout(PATIENCE):
            while not log.job.state.ended:
                await log.wait_beyond(log.job.sequence, None)
        return log.job

    crashing = await submit("kill_itself", retries=3)
    poison = {
        task: await submit(task)
        for task in ("exit_with_three", "crash", "raise_half_a_character", "ask_for_too_much_memory", "call_sys_exit")
    }
    unreadable = await submit("well_behaved", seeds="no seeds at all")
    unstartable = await submit("well_behaved")
    (made.job_dir(unstartable.job_id) / "worker.log").mkdir(parents=True)
    littered = await submit("well_behaved")
    folder = made.job_dir(littered.job_id)
    folder.mkdir(parents=True)
    for name in ("run_log.jsonl", "samples.jsonl", "judge_cache.sqlite3"):
        (folder / name).write_bytes(b"\0garbage\n{")
    healthy = await submit("well_behaved")

    assert (await ended(healthy)).state is JobState.COMPLETED
    assert (await ended(littered)).state is JobState.COMPLETED
    errors = {}
    for task, job in {**poison, "unreadable": unreadable, "unstartable": unstartable, "crashing": crashing}.items():
        last = await ended(job)
        assert last.state is JobState.FAILED, task
        assert last.error is not None
        errors[task] = (last.error.code, last.error.reason)
    assert errors == {
        "exit_with_three": (JobErrorCode.WORKER_DIED, "WORKER_EXITED"),
        "crash": (JobErrorCode.WORKER_DIED, "WORKER_KILLED"),
        "raise_half_a_character": (JobErrorCode.INVALID, "TASK_LOAD_FAILED"),
        "ask_for_too_much_memory": (JobErrorCode.OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        "call_sys_exit": (JobErrorCode.EVALUATION, "UNEXPECTED_ERROR"),
        "unreadable": (JobErrorCode.EVALUATION, "UNEXPECTED_ERROR"),
        "unstartable": (JobErrorCode.WORKER_DIED, "WORKER_NOT_STARTED"),
        "crashing": (JobErrorCode.WORKER_DIED, "WORKER_KILLED"),
    }
    log = await journal.log(crashing.job_id)
    reasons = [event.body.reason for event in log.after(0) if isinstance(event.body, StateChange)]
    assert [reason for reason in reasons if reason] == [
        "attempt 1 failed (WORKER_KILLED); failure 1 of at most 3",
        "attempt 2 failed (WORKER_KILLED); failure 2 of at most 3",
    ]
    await made.stop()
    assert descendants() == []
