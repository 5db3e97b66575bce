"""Files of earlier releases open, files of later ones are left alone."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.events import StateChange
from lmms_eval_grpc.jobs.results import JobErrorCode, MergeResult
from lmms_eval_grpc.jobs.spec import CheckpointKind, MergeSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.store.schema import MIGRATIONS, NewerSchema, migrate
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.jobs.examples import progress, queued, result, spec, task_result, then

DATA = Path(__file__).parent / "data"


def version_1(folder: Path) -> Path:
    """A database as the first release left it."""
    return restored(folder, "version_1.sql")


def restored(folder: Path, name: str) -> Path:
    path = folder / "jobs.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript((DATA / name).read_text())
    connection.close()
    return path


def version_of(path: Path) -> int:
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(version)


async def test_a_file_of_version_1_is_read_in_full(tmp_path: Path) -> None:
    store = SqliteStore(version_1(tmp_path))
    await store.open()
    jobs = {job.order: job for job in await store.page(JobFilter(), before_order=None, size=10, full=True)}
    assert {order: job.state for order, job in jobs.items()} == {
        1: JobState.COMPLETED,
        2: JobState.FAILED,
        3: JobState.CANCELLED,
        4: JobState.COMPLETED,
        5: JobState.RUNNING,
        6: JobState.QUEUED,
    }
    first = jobs[1]
    assert first.spec == spec(
        tasks=("digits", "letters"),
        num_gpus=2,
        limit_fraction=0.5,
        gen_kwargs={"max_new_tokens": 16, "temperature": 0.5},
        run_timeout=3600.0,
    )
    assert (first.labels, first.priority, first.devices) == ({"run": "sft-7", "step": "1200"}, 5, ("cuda:0", "cuda:1"))
    assert first.result == result("digits")
    assert first.task_results[0] == task_result("digits", 0.75)
    assert math.isnan(first.task_results[1].metrics[0].value)
    assert [event.sequence for event in await store.events("job-1")] == [1, 2, 3, 4, 5, 6]
    failure = jobs[2].error
    assert failure is not None
    assert (failure.code, failure.details, failure.log_tail) == (
        JobErrorCode.WORKER_DIED,
        {"signal": "SIGKILL"},
        "… last line",
    )
    assert jobs[3].cancel_reason == "superseded"
    assert jobs[4].spec == MergeSpec("checkpoint", "merged", CheckpointKind.EMA)
    assert jobs[4].result == MergeResult("merged", 123456)
    assert (jobs[5].attempt, jobs[5].progress) == (2, progress(7))
    assert (await store.events("job-5"))[2].body == StateChange(JobState.RUNNING, JobState.QUEUED, 1)
    assert [job.order for job in (await store.unfinished()).jobs] == [5, 6]
    found = await store.find_request("6f1c")
    assert found is not None
    assert (found.order, found.request_digest) == (1, "d1")
    assert await store.last_order() == 7
    selection = JobFilter(labels={"run": "sft-7"})
    assert [job.order for job in await store.page(selection, before_order=None, size=10, full=False)] == [6, 1]
    await store.close()


async def test_a_file_of_version_1_can_be_written(tmp_path: Path) -> None:
    path = version_1(tmp_path)
    store = SqliteStore(path)
    await store.open()
    await store.insert(*queued(8))
    (running, *_) = (await store.unfinished()).jobs
    completed, event = then(running, JobState.COMPLETED, result=result())
    await store.append(completed, event)
    await store.remove(["job-1", "job-2"])
    await store.close()
    assert version_of(path) == len(MIGRATIONS)
    again = SqliteStore(path)
    await again.open()
    assert await again.get("job-5") == completed
    assert await again.events("job-1") == []
    await again.close()


async def test_jobs_of_version_1_are_taken_to_have_ended_by_their_clock(tmp_path: Path) -> None:
    store = SqliteStore(version_1(tmp_path))
    await store.open()
    # At 1004, 1005, 1006 and 1006 s. What ends from now on is later than all of them, whatever its clock says.
    assert await store.expired(keep=0, ended_before=None) == ["job-3", "job-2", "job-1", "job-4"]
    (running, *_) = (await store.unfinished()).jobs
    completed, event = then(running, JobState.COMPLETED, time=500.0, result=result())
    await store.append(completed, event)
    assert await store.expired(keep=1, ended_before=None) == ["job-3", "job-2", "job-1", "job-4"]
    assert await store.expired(keep=None, ended_before=1004.5) == ["job-3", "job-5"]
    await store.remove(["job-3", "job-4"])
    assert await store.expired(keep=0, ended_before=None) == ["job-2", "job-1", "job-5"]
    await store.close()


async def test_jobs_of_version_2_are_nobodys_and_those_that_come_have_an_owner(tmp_path: Path) -> None:
    path = restored(tmp_path, "version_2.sql")
    assert version_of(path) == 2
    store = SqliteStore(path)
    await store.open()
    assert await store.expired(keep=0, ended_before=None) == ["job-3", "job-2", "job-1", "job-4"]
    jobs = await store.page(JobFilter(), before_order=None, size=10, full=False)
    assert [(job.order, job.owner) for job in jobs] == [(order, "") for order in (6, 5, 4, 3, 2, 1)]
    await store.insert(*queued(8, owner="alice"))
    await store.close()
    again = SqliteStore(path)
    await again.open()
    found = await again.page(JobFilter(owner="alice"), before_order=None, size=10, full=False)
    assert [(job.order, job.owner) for job in found] == [(8, "alice")]
    await again.close()


def test_each_missing_step_is_taken_once(tmp_path: Path) -> None:
    path = version_1(tmp_path)
    connection = sqlite3.connect(path, isolation_level=None)
    later = (
        *MIGRATIONS,
        ("ALTER TABLE jobs ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",),
        ("UPDATE jobs SET note = 'migrated' WHERE position > 3",),
    )
    migrate(connection, later)
    migrate(connection, later)
    notes = [note for (note,) in connection.execute("SELECT note FROM jobs ORDER BY position")]
    assert notes == ["none"] * 3 + ["migrated"] * 3
    connection.close()
    assert version_of(path) == len(later)


def test_a_step_that_fails_is_undone_as_a_whole(tmp_path: Path) -> None:
    path = version_1(tmp_path)
    connection = sqlite3.connect(path, isolation_level=None)
    broken = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN note TEXT", "INSERT INTO no_such_table VALUES (1)"))
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        migrate(connection, broken)
    columns = [name for (_, name, *_) in connection.execute("PRAGMA table_info(jobs)")]
    assert "note" not in columns
    connection.close()
    assert version_of(path) == len(MIGRATIONS)


async def test_a_file_of_a_later_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = version_1(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreUnavailable, match=r"schema is version 99.*run the release that wrote it") as refused:
        await SqliteStore(path).open()
    assert str(path) in str(refused.value)
    assert version_of(path) == 99
    with pytest.raises(NewerSchema):
        migrate(sqlite3.connect(path))
