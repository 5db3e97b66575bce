"""Rows that are damaged, or say what no release has written: the server starts, and tells of the others as ever."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.store.sqlite import SqliteStore
from lmms_eval_grpc.v1 import admin_service_pb2 as admin
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1.job_pb2 import JOB_VIEW_FULL
from tests.fuzz.methods import BY_NAME
from tests.fuzz.rules import Answer, Request, Rules
from tests.jobs.examples import progress, queued, result, task_result, then
from tests.server.conftest import NewRig, Rig, new_rig

__all__ = ["new_rig"]

JOBS = 6
WHOLE = 7
"""Of the jobs, which nobody touches."""
_HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**40, 2**63 - 1, 2**63, -(2**63), 10**400, 1e300, -1e300, float("nan"), float("inf"),
    1.5, "", "x", "\0", "\ud800", "queued", "running", "completed", [], ["x"], [[]], {}, {"type": "progress"}, {"a": 1},
    "9" * 5000,
)  # fmt: skip
_TEXTS = ("", "null", "{}", "[]", "[" * 5000, '{"type": "evaluation_spec"}', "\0", "{", "1e999", "NaN", '"x"')


async def fill(folder: Path) -> None:
    """Jobs in every state; the last is whole and has ended well."""
    store = SqliteStore(folder / "jobs.sqlite3")
    await store.open()
    for order, last in enumerate((*JobState, JobState.COMPLETED), start=1):
        job, event = queued(order, request_id=f"request-{order}", labels={"n": str(order)})
        await store.insert(job, event)
        paths: dict[JobState, list[Any]] = {
            JobState.QUEUED: [],
            JobState.RUNNING: [JobState.RUNNING, progress(1)],
            JobState.CANCELLING: [JobState.RUNNING, JobState.CANCELLING],
            JobState.CANCELLED: [JobState.CANCELLED],
        }
        for body in paths.get(last, [JobState.RUNNING, progress(3), task_result(), last]):
            changes: dict[str, Any] = {"result": result()} if body is JobState.COMPLETED else {}
            job, event = then(job, body, **changes)
            await store.append(job, event)
    await store.close()


def damage(path: Path, rng: random.Random) -> str:
    """Changes one to three places of the file's rows; says what."""
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        position = rng.randint(1, JOBS)
        table, column, key = rng.choice(
            (
                *[("jobs", name, "position") for name in ("job", "job", "job", "task_results", "result")],
                *[("jobs", name, "position") for name in ("state", "sequence", "end_time", "request_id")],
                *[("events", name, "position") for name in ("body", "body", "time", "sequence", "supersedable")],
            )
        )
        rows = (
            connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {key} = ?", (position,))
            if table == "jobs"
            else (connection.execute(f"SELECT sequence, {column} FROM {table} WHERE {key} = ?", (position,)))
        )
        name, old = rng.choice(rows.fetchall())
        new = _changed(old, rng) if column in ("job", "task_results", "result", "body") else rng.choice(_HOSTILE)
        try:
            where = "rowid = ?" if table == "jobs" else f"position = {position} AND sequence = ?"
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (_storable(new), name))
        except (sqlite3.Error, OverflowError, UnicodeEncodeError):
            continue
        done.append(f"{table}.{column} of {position} = {str(new)[:300]!r}")
    connection.commit()
    connection.close()
    return "; ".join(done)


def _storable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bytes | None) else json.dumps(value)


def _changed(old: Any, rng: random.Random) -> str:
    """A JSON text with one value replaced, added or left out, or one that is no JSON."""
    text = old.decode() if isinstance(old, bytes) else str(old)
    if rng.random() < 0.2:
        return rng.choice((*_TEXTS, text[: rng.randint(0, len(text))]))
    plain = json.loads(text)
    places = list(_places(plain, []))
    if not places:
        return json.dumps(rng.choice(_HOSTILE[:-1]))
    *way, last = rng.choice(places)
    holder = plain
    for step in way:
        holder = holder[step]
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[last]
    else:
        holder[last] = rng.choice(_HOSTILE)
    return json.dumps(plain)


def _places(value: Any, way: list[Any]) -> Iterator[list[Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield [*way, key]
        yield from _places(item, [*way, key])


async def answers(rig: Rig) -> list[tuple[Request, Answer]]:
    """What the server says of every job, in every way."""
    ids = [f"job-{order}" for order in range(1, WHOLE + 1)]
    asked = [
        *[("GetJob", pb.GetJobRequest(job_id=one)) for one in ids],
        *[("WatchJob", pb.WatchJobRequest(job_id=one, after_sequence=0)) for one in ids],
        *[("WatchJob", pb.WatchJobRequest(job_id=one)) for one in ids],
        *[("StreamSamples", pb.StreamSamplesRequest(job_id=one)) for one in ids],
        ("ListJobs", pb.ListJobsRequest(view=JOB_VIEW_FULL)),
        ("ListJobs", pb.ListJobsRequest(page_size=2)),
        ("QueueStatus", pb.QueueStatusRequest()),
        *[("SetJobPriority", admin.SetJobPriorityRequest(job_id=one, priority=1)) for one in ids],
        *[("CancelJob", pb.CancelJobRequest(job_id=one)) for one in ids],
        ("CollectGarbage", admin.CollectGarbageRequest(keep=100)),
    ]
    given = []
    for name, message in asked:
        method = BY_NAME[name]
        channel: Any = rig.channel
        request = Request(method, (message.SerializeToString(),), gives_up=method.gives_many)
        if method.gives_many:
            call = channel.unary_stream(method.path)(request.messages[0], timeout=60)
            reading = asyncio.create_task(_read_all(call))
            await asyncio.wait({reading}, timeout=0.1)
            call.cancel()
            await reading
        else:
            call = channel.unary_unary(method.path)(request.messages[0], timeout=60)
        code = await call.code()
        given.append((request, Answer(code, await call.details() or "", tuple(await call.trailing_metadata() or ()))))
    return given


async def _read_all(call: Any) -> None:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", range(30))
async def test_a_server_over_damaged_rows_starts_and_answers(
    new_rig: NewRig, tmp_path: Path, fuzz_seed: int, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(f"{fuzz_seed} {number}")
    state = tmp_path / "state"
    state.mkdir()
    await fill(state)
    what = damage(state / "jobs.sqlite3", rng)
    rules = Rules([str(state)], largest_request=2**20)
    rig = await new_rig(state_dir=state)
    try:
        problems = []
        for request, answer in await answers(rig):
            # What cannot be read is told to be so, and nobody else's.
            if answer.code is not grpc.StatusCode.DATA_LOSS:
                problems += rules.problems(request, answer)
            elif request.says(f"job-{WHOLE}"):
                problems.append(f"{request.method.name}: the whole job is lost: {answer.details}")
        whole = await rig.get(f"job-{WHOLE}")
    finally:
        await rig.server.stop(0)
    again = f"{what}; run it again with --fuzz-seed {fuzz_seed} -k '[{number}]'"
    assert not problems, f"{problems}\n{again}\n{caplog.text[-3000:]}"
    assert whole.evaluation_result.task_results[0].task == "digits", again
