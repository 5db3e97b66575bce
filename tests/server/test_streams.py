"""StreamSamples and StreamLogs, over the files that a worker writes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.executors.log_bound import bound_log
from lmms_eval_grpc.jobs.errors import InvalidRequest, JobNotFound
from lmms_eval_grpc.jobs.events import Completed
from lmms_eval_grpc.server import streams
from lmms_eval_grpc.server.limits import Pacer
from lmms_eval_grpc.store.base import SampleBatch
from lmms_eval_grpc.store.samples import FileSampleStore
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.jobs.examples import result, task_result
from tests.scheduler.doubles import ScriptedExecution, until
from tests.server.conftest import TASK, NewRig, Rig, failure, following, violations


def record(doc_id: int, task: str = "digits", **fields: Any) -> SampleRecord:
    values: dict[str, Any] = {
        "task": task,
        "doc_id": doc_id,
        "filter": "none",
        "outcome": "ok",
        "prompt": "What digit is shown?",
        "target": "7",
        "responses": ("7.",),
        "filtered_responses": ("7",),
        "scores": {"exact_match": 1.0},
        "output_tokens": 2,
    }
    return SampleRecord(**{**values, **fields})


def append(folder: Path, *records: SampleRecord) -> None:
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(f"{one.to_json()}\n" for one in records)


async def samples(rig: Rig, job_id: str, **fields: Any) -> list[pb.StreamSamplesResponse]:
    call = rig.stub.StreamSamples(pb.StreamSamplesRequest(job_id=job_id, **fields))
    return [message async for message in following(call)]


def request(job_id: str, task: str, **fields: Any) -> pb.StreamSamplesRequest:
    return pb.StreamSamplesRequest(job_id=job_id, task=task, **fields)


async def logs(rig: Rig, job_id: str, **fields: Any) -> list[pb.StreamLogsResponse]:
    call = rig.stub.StreamLogs(pb.StreamLogsRequest(job_id=job_id, **fields))
    return [message async for message in following(call)]


async def test_the_middle_of_a_log_that_was_too_long_is_left_out_and_offsets_stay(rig: Rig) -> None:
    job_id, _ = await rig.running()
    path = rig.job_dir(job_id) / "worker.log"
    lines = [f"line {number:9d}\n" for number in range(100_000)]
    path.write_text("".join(lines))
    assert bound_log(path, 1 << 20, 16384, 65536) > 1 << 20
    assert path.stat().st_blocks * 512 < 1 << 18
    assert bound_log(path, 1 << 20, 16384, 65536) == 0
    with path.open("a") as file:
        file.write("the end\n")
    messages = await logs(rig, job_id)
    text = "".join(message.text for message in messages)
    assert "\0" not in text
    assert text.startswith(lines[0])
    assert text.endswith(f"{lines[-1]}the end\n")
    assert "bytes of output are left out here" in text
    assert messages[-1].end_offset == path.stat().st_size == 15 * 100_000 + 8
    for message in messages:
        (rest,) = ["".join(one.text for one in await logs(rig, job_id, after_offset=message.end_offset))]
        assert text.endswith(rest)
    (tail,) = await logs(rig, job_id, after_offset=-8)
    assert tail.text == "the end\n"


async def test_samples_come_in_order_with_all_their_fields(rig: Rig) -> None:
    job_id, _ = await rig.running()
    append(
        rig.job_dir(job_id),
        record(0, scores={"exact_match": 1, "parsed": True}),
        record(1, outcome="model_error", filter="", responses=(), scores={}, error="corrupt image \ud800"),
        record(2, scores={"anls": 0.5, "verdict": {"label": "good"}}),
    )
    (message,) = await samples(rig, job_id)
    ok, failed, judged = message.samples
    assert (ok.task, ok.doc_id, ok.filter, ok.outcome) == ("digits", 0, "none", job_pb2.SAMPLE_OUTCOME_OK)
    assert (ok.prompt, ok.target, ok.responses, ok.filtered_responses) == ("What digit is shown?", "7", ["7."], ["7"])
    assert ok.scores == {"exact_match": 1.0, "parsed": 1.0}
    assert not ok.scores_json
    assert ok.output_tokens == 2
    assert failed.outcome == job_pb2.SAMPLE_OUTCOME_MODEL_ERROR
    assert failed.error.startswith("corrupt image")
    assert judged.scores == {"anls": 0.5}
    assert json.loads(judged.scores_json) == {"anls": 0.5, "verdict": {"label": "good"}}


async def test_samples_can_be_resumed_from_any_message_without_loss_or_repetition(rig: Rig) -> None:
    job_id, _ = await rig.running()
    append(rig.job_dir(job_id), *(record(n, prompt="x" * 20_000) for n in range(200)))
    whole = await samples(rig, job_id)
    assert len(whole) > 3
    assert all(message.ByteSize() <= 1024 * 1024 for message in whole)
    assert [sample.doc_id for message in whole for sample in message.samples] == list(range(200))
    for position, message in enumerate(whole):
        rest = await samples(rig, job_id, after_cursor=message.next_cursor)
        assert rest == whole[position + 1 :]


async def test_samples_of_one_task_can_be_asked_for(rig: Rig) -> None:
    job_id, _ = await rig.running()
    append(rig.job_dir(job_id), *(record(n, task=f"task-{n % 3}") for n in range(9)))
    (message,) = await samples(rig, job_id, task="task-1")
    assert [sample.doc_id for sample in message.samples] == [1, 4, 7]
    assert await samples(rig, job_id, task="task-9") == []


async def test_a_task_that_a_completed_job_did_not_have_is_refused_with_those_it_had(rig: Rig) -> None:
    job_id, execution = await rig.running(spec=rig.spec(tasks=["handwritten_*"]))
    append(rig.job_dir(job_id), *(record(n, task="digits_a") for n in range(3)), record(0, task="extra"))
    assert await samples(rig, job_id, task="digits") == []
    following_it = asyncio.create_task(failure(rig.stub.StreamSamples(request(job_id, "digits", follow=True))))
    outcomes = (task_result("digits_a"), task_result("digits_b"))
    execution.tell(*outcomes, Completed(dataclasses.replace(result(), task_results=outcomes)))
    await rig.ended(job_id)
    told = {"task": "'digits' is no task of this job; its tasks are: 'digits_a', 'digits_b', 'extra'"}
    assert violations(await following_it) == told
    (message,) = await samples(rig, job_id, task="digits_a")
    for cursor in (0, message.next_cursor):
        assert violations(await failure(rig.stub.StreamSamples(request(job_id, "digits", after_cursor=cursor)))) == told
        assert await samples(rig, job_id, task="digits_b", after_cursor=cursor) == []
    # What the file has is right, also where it is behind the cursor.
    assert await samples(rig, job_id, task="extra", after_cursor=message.next_cursor) == []
    assert await samples(rig, job_id, after_cursor=message.next_cursor) == []


async def test_of_many_tasks_the_first_are_named(rig: Rig) -> None:
    job_id, execution = await rig.running()
    outcomes = tuple(task_result(f"task-{n:03d}") for n in range(500))
    execution.tell(*outcomes, Completed(dataclasses.replace(result(), task_results=outcomes)))
    await rig.ended(job_id)
    (told,) = violations(await failure(rig.stub.StreamSamples(request(job_id, "task-1")))).values()
    assert told.endswith("'task-018', 'task-019' and 480 more")


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_job_that_did_not_complete_may_have_had_any_task_of_a_group(rig: Rig, cancelled: bool) -> None:
    async def end(job_id: str, execution: ScriptedExecution) -> None:
        if cancelled:
            await rig.stub.CancelJob(pb.CancelJobRequest(job_id=job_id))
        else:
            execution.fail()
        await rig.ended(job_id)

    none_known, execution = await rig.running()
    await end(none_known, execution)
    assert await samples(rig, none_known, task="handwritten_digit") == []

    group, execution = await rig.running(spec=rig.spec(tasks=["handwritten_*"]))
    append(rig.job_dir(group), record(0, task=TASK))
    await end(group, execution)
    assert await samples(rig, group, task="handwritten_letters") == []

    known, execution = await rig.running()
    append(rig.job_dir(known), record(0, task=TASK))
    await end(known, execution)
    error = await failure(rig.stub.StreamSamples(request(known, "handwritten_digit")))
    assert violations(error) == {"task": f"'handwritten_digit' is no task of this job; its tasks are: '{TASK}'"}
    (message,) = await samples(rig, known, task=TASK)
    assert len(message.samples) == 1


async def test_samples_are_followed_until_the_job_has_ended_and_all_were_read(rig: Rig) -> None:
    job_id, execution = await rig.running()
    folder = rig.job_dir(job_id)
    reading = asyncio.create_task(samples(rig, job_id, follow=True))
    for n in range(5):
        append(folder, record(n))
        await asyncio.sleep(0.02)
    assert not reading.done()
    append(folder, record(5))
    execution.complete()
    told = await reading
    assert [sample.doc_id for message in told for sample in message.samples] == list(range(6))


async def test_without_follow_the_samples_end_with_what_is_there(rig: Rig) -> None:
    job_id, _ = await rig.running()
    assert await samples(rig, job_id) == []
    append(rig.job_dir(job_id), record(0))
    assert len(await samples(rig, job_id)) == 1


async def test_a_sample_larger_than_a_message_may_be_is_cut_to_fit(rig: Rig) -> None:
    job_id, _ = await rig.running()
    append(rig.job_dir(job_id), record(0, prompt="ü" * 4_000_000), record(1))
    told = await samples(rig, job_id)
    long, short = [sample for message in told for sample in message.samples]
    assert long.prompt.startswith("üüü")
    assert "more characters" in long.prompt
    assert (long.target, short.prompt) == ("7", "What digit is shown?")


@pytest.mark.parametrize("cursor", [-1, 3, 10**9])
async def test_a_cursor_that_no_message_brought_is_refused(rig: Rig, cursor: int) -> None:
    job_id, _ = await rig.running()
    append(rig.job_dir(job_id), record(0))
    error = await failure(rig.stub.StreamSamples(pb.StreamSamplesRequest(job_id=job_id, after_cursor=cursor)))
    assert set(violations(error)) == {"after_cursor"}


async def test_the_log_is_read_from_any_offset(rig: Rig) -> None:
    job_id, _ = await rig.running()
    assert await logs(rig, job_id) == []
    (rig.job_dir(job_id) / "worker.log").write_bytes("loading 模型\ndone\n".encode())
    (message,) = await logs(rig, job_id)
    assert message == pb.StreamLogsResponse(text="loading 模型\ndone\n", end_offset=20)
    (message,) = await logs(rig, job_id, after_offset=15)
    assert message.text == "done\n"
    (message,) = await logs(rig, job_id, after_offset=-5)
    assert (message.text, message.end_offset) == ("done\n", 20)
    assert "".join(message.text for message in await logs(rig, job_id, after_offset=-1000)) == "loading 模型\ndone\n"
    assert await logs(rig, job_id, after_offset=20) == []
    error = await failure(rig.stub.StreamLogs(pb.StreamLogsRequest(job_id=job_id, after_offset=21)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_long_log_comes_in_pieces_that_cut_no_character(rig: Rig) -> None:
    job_id, _ = await rig.running()
    text = "x" + "模" * 300_000
    (rig.job_dir(job_id) / "worker.log").write_text(text, encoding="utf-8")
    told = await logs(rig, job_id)
    assert len(told) > 2
    assert "".join(message.text for message in told) == text
    assert [message.end_offset for message in told] == sorted(message.end_offset for message in told)
    assert told[-1].end_offset == len(text.encode())
    resumed = await logs(rig, job_id, after_offset=told[0].end_offset)
    assert "".join(message.text for message in resumed) == text[len(told[0].text) :]


async def test_bytes_that_are_no_text_are_replaced_and_do_not_hold_up_the_log(rig: Rig) -> None:
    job_id, execution = await rig.running()
    (rig.job_dir(job_id) / "worker.log").write_bytes(b"ok \xff\xfe ok \xe6\xa8")
    execution.complete()
    await rig.ended(job_id)
    told = await logs(rig, job_id)
    assert "".join(message.text for message in told) == "ok \ufffd\ufffd ok \ufffd"
    assert told[-1].end_offset == 11


async def test_the_log_is_followed_until_the_job_has_ended(rig: Rig) -> None:
    job_id, execution = await rig.running()
    path = rig.job_dir(job_id) / "worker.log"
    reading = asyncio.create_task(logs(rig, job_id, follow=True))
    with path.open("ab", buffering=0) as log:
        for part in (b"one ", b"\xe6\xa8", b"\xa1 two"):
            log.write(part)
            await asyncio.sleep(0.05)
        assert not reading.done()
        log.write(b" three")
        execution.complete()
    assert "".join(message.text for message in await reading) == "one 模 two three"


class Reader:
    """Where a stream is written to; does something once, when the first message is."""

    def __init__(self, then: Callable[[], Awaitable[None]]) -> None:
        self.told: list[Any] = []
        self._then = then

    async def write(self, message: Any) -> None:
        self.told.append(message)
        if len(self.told) == 1:
            await self._then()


async def crowd_out(rig: Rig, job_id: str) -> None:
    """Has retention remove an ended job: another one ends, and only one is kept."""
    folder = rig.server.state_dir / "jobs" / job_id
    following_id, execution = await rig.running()
    execution.complete()
    await rig.ended(following_id)
    await until(lambda: not folder.exists())


async def completed(rig: Rig) -> str:
    job_id, execution = await rig.running()
    execution.complete()
    await rig.ended(job_id)
    return job_id


async def test_samples_that_are_removed_while_they_are_read_do_not_end_well(new_rig: NewRig) -> None:
    rig = await new_rig(max_completed_jobs=1)
    job_id = await completed(rig)
    append(rig.job_dir(job_id), *(record(n, prompt="x" * 20_000) for n in range(60)))
    reader: Any = Reader(lambda: crowd_out(rig, job_id))
    request = pb.StreamSamplesRequest(job_id=job_id)
    with pytest.raises(JobNotFound):
        await streams.stream_samples(
            request, reader, rig.server._journal, rig.server._scheduler, FileSampleStore(), Pacer(None)
        )
    assert len(reader.told) == 1


async def test_samples_that_are_removed_just_before_they_are_read_are_not_taken_for_none(new_rig: NewRig) -> None:
    rig = await new_rig(max_completed_jobs=1)
    job_id = await completed(rig)
    append(rig.job_dir(job_id), record(0))

    class Late(FileSampleStore):
        async def read(self, job_dir: Path, after_cursor: int, max_bytes: int) -> SampleBatch:
            await crowd_out(rig, job_id)
            return await super().read(job_dir, after_cursor, max_bytes)

    context: Any = None
    request = pb.StreamSamplesRequest(job_id=job_id, follow=True)
    with pytest.raises(JobNotFound):
        await streams.stream_samples(request, context, rig.server._journal, rig.server._scheduler, Late(), Pacer(None))


async def test_a_log_that_is_removed_while_it_is_read_does_not_end_well(new_rig: NewRig) -> None:
    rig = await new_rig(max_completed_jobs=1)
    job_id = await completed(rig)
    (rig.job_dir(job_id) / "worker.log").write_text("x" * (streams.MAX_LOG_BYTES + 1))
    reader: Any = Reader(lambda: crowd_out(rig, job_id))
    request = pb.StreamLogsRequest(job_id=job_id, follow=True)
    with pytest.raises(JobNotFound):
        await streams.stream_logs(request, reader, rig.server._journal, rig.server._scheduler, Pacer(None))
    assert len(reader.told) == 1


async def test_a_log_that_somebody_removed_is_not_taken_for_all_there_is(rig: Rig) -> None:
    job_id = await completed(rig)
    path = rig.job_dir(job_id) / "worker.log"
    path.write_text("x" * (streams.MAX_LOG_BYTES + 1))
    reader: Any = Reader(lambda: asyncio.to_thread(path.unlink))
    with pytest.raises(InvalidRequest, match="which has 0 bytes"):
        await streams.stream_logs(
            pb.StreamLogsRequest(job_id=job_id), reader, rig.server._journal, rig.server._scheduler, Pacer(None)
        )


async def test_followers_of_a_job_that_waits_look_at_nothing_until_it_starts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    read = streams._read

    def count(path: Path, offset: int, most: int) -> tuple[int, int, bytes, bool]:
        nonlocal looks
        looks += 1
        return read(path, offset, most)

    monkeypatch.setattr(streams, "_read", count)
    monkeypatch.setattr(streams, "POLL_INTERVAL", 0.001)
    _, running = await rig.running()
    waiting = await rig.submit()
    reading = asyncio.create_task(logs(rig, waiting.job_id, follow=True))
    await until(lambda: looks == 1)
    await asyncio.sleep(0.1)
    assert looks == 1
    running.complete()
    execution = await rig.executor.execution(waiting.job_id)
    (rig.job_dir(waiting.job_id) / "worker.log").write_text("at last")
    execution.complete()
    assert "".join(message.text for message in await reading) == "at last"


async def test_followers_of_a_job_that_waits_are_sent_away_when_the_server_stops(rig: Rig) -> None:
    await rig.running()
    waiting = await rig.submit()
    call = rig.stub.StreamLogs(pb.StreamLogsRequest(job_id=waiting.job_id, follow=True))
    reading = asyncio.create_task(failure(call))
    await asyncio.sleep(0.05)
    rig.server._journal.close()
    assert (await reading).code() is grpc.StatusCode.UNAVAILABLE
