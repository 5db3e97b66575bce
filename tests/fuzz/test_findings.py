"""What fuzzing has found, where more must hold than that no rule is broken."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from lmms_eval_grpc.engine.tasks import index as task_index
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from lmms_eval_grpc.engine.yaml_text import YamlTextError, read_yaml
from lmms_eval_grpc.jobs.codec import DecodeError, decode
from lmms_eval_grpc.jobs.errors import JobNotFound
from lmms_eval_grpc.jobs.results import Progress
from lmms_eval_grpc.scheduler.carry import carry_through
from lmms_eval_grpc.server.catalog import TaskCatalog
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.fuzz.target import BOMB
from tests.server.conftest import NewRig, Rig, failure, new_rig, rig, violations

__all__ = ["new_rig", "rig"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x: !!int ''", "not of the kind that its tag says"),
        ("x: !!bool maybe", "not of the kind that its tag says"),
        ("x: !!timestamp y", "not of the kind that its tag says"),
        ("x: [", "while parsing"),
        ("x: &a [*a]", "a part of"),
        (BOMB, "stand for more than 1000000 items"),
    ],
)
def test_yaml_that_is_none_is_one_kind_of_error(text: str, complaint: str) -> None:
    import yaml

    with pytest.raises(YamlTextError, match=complaint):
        read_yaml(text, yaml.safe_load)


def test_aliases_that_stand_for_little_are_read() -> None:
    import yaml

    assert read_yaml("a: &a [1, 2]\nb: [*a, *a]", yaml.safe_load) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_a_folder_with_too_much_below_it_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_index, "MAX_ENTRIES", 5)
    for number in range(6):
        (tmp_path / f"{number}.yaml").write_text(f"task: t{number}\n")
    index = TaskIndex.scan([tmp_path], include_defaults=False)
    assert index.entries() == ()
    assert [(problem.path, problem.reason) for problem in index.problems()] == [(tmp_path, task_index.TOO_MANY)]


async def test_a_folder_with_too_much_below_it_is_refused_by_its_field(rig: Rig) -> None:
    spec = rig.spec(include_path=["/"])
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec)))
    assert task_index.TOO_MANY in violations(error)["spec.include_path[0]"]


async def test_a_slow_folder_of_one_request_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    catalog, let_go, looking = TaskCatalog([]), threading.Event(), threading.Event()
    scan = TaskIndex.open

    def slow(paths: tuple[Path, ...], **options: Any) -> TaskIndex:
        if tmp_path in paths:
            looking.set()
            assert let_go.wait(30)
        return scan(paths, **options)

    monkeypatch.setattr(TaskIndex, "open", slow)
    waiting = asyncio.create_task(asyncio.to_thread(catalog.index, [tmp_path]))
    assert await asyncio.to_thread(looking.wait, 30)
    assert (await asyncio.to_thread(catalog.index)).get("handwritten_digits")
    let_go.set()
    assert (await waiting).get("handwritten_digits")


async def test_a_broken_task_of_the_server_is_told_without_the_folder_of_the_server(
    new_rig: NewRig, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "broken.yaml").write_text("task: [broken\n")
    rig = await new_rig(include_path=(tmp_path / "own",))
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec(tasks=["broken"]))))
    told = violations(error)["spec.tasks[0]"]
    assert "own/broken.yaml: not valid YAML" in told
    assert str(tmp_path) not in told


async def test_an_unknown_task_is_refused_with_the_files_that_may_have_it(new_rig: NewRig, tmp_path: Path) -> None:
    for folder in ("own", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.yaml").write_text("task: broken1\ninclude: [gone.yaml]\n")
        (tmp_path / folder / "b.yaml").write_text("task: broken2\ninclude: [c.template]\n")
        (tmp_path / folder / "c.template").write_text("[" + "x " * 400)
    rig = await new_rig(include_path=(tmp_path / "own",))
    for name in ("broken2", "broken*"):
        error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec(tasks=[name]))))
        told = violations(error)["spec.tasks[0]"]
        assert "it may be in what could not be read (own/a.yaml: include 'gone.yaml': no such file" in told
        assert "own/b.yaml: own/c.template: not valid YAML" in told
        assert str(tmp_path) not in told
    theirs = rig.spec(tasks=["broken2"], include_path=[str(tmp_path / "theirs")])
    told = violations(await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=theirs))))["spec.tasks[0]"]
    assert f"{tmp_path}/theirs/a.yaml: include 'gone.yaml'" in told
    assert str(tmp_path / "own") not in told


@pytest.mark.parametrize("later", [b"\xff\xff", b"\x08"])
async def test_a_later_request_of_a_stream_that_is_no_message_is_refused_in_words(rig: Rig, later: bytes) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="*")
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    call: Any = rig.channel.stream_stream(method)()
    await call.write(request.SerializeToString())
    answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
    assert answer.list_services_response.service
    await call.write(later)
    error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a message of its type" in (error.details() or "")


async def test_a_cursor_beyond_what_a_file_can_have_is_refused(rig: Rig) -> None:
    job_id, _ = await rig.running()
    (rig.job_dir(job_id) / "samples.jsonl").write_text("{}\n")
    error = await failure(rig.stub.StreamSamples(pb.StreamSamplesRequest(job_id=job_id, after_cursor=2**63 - 1)))
    assert "after_cursor" in violations(error)


async def test_a_sample_record_that_makes_no_message_is_left_out(rig: Rig) -> None:
    job_id, execution = await rig.running()
    lines = [
        '{"task": "t", "doc_id": 1}',
        '{"task": 1, "doc_id": "x"}',
        '{"scores": [1]}',
        '{"task": "t", "doc_id": 2}',
    ]
    (rig.job_dir(job_id) / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    execution.complete()
    await rig.ended(job_id)
    read = [message async for message in rig.stub.StreamSamples(pb.StreamSamplesRequest(job_id=job_id))]
    assert [sample.doc_id for message in read for sample in message.samples] == [1, 2]


@pytest.mark.parametrize(
    "text", ["null", "[" * 5000, '{"type":"progress","stage":"scoring","samples_done":"x"}', "[]", "1", '"progress"']
)
def test_a_record_of_wrong_types_is_not_decoded(text: str) -> None:
    with pytest.raises(DecodeError):
        decode(Progress, text)


async def test_a_job_that_makes_no_message_is_lost_alone(new_rig: NewRig) -> None:
    rig = await new_rig()
    ids = [(await rig.submit()).job_id for _ in range(4)]
    await rig.server.stop(0)
    with sqlite3.connect(rig.server.state_dir / "jobs.sqlite3") as connection:
        statement = "UPDATE jobs SET job = replace(job, '\"repeats\":1', '\"repeats\":1099511627776') WHERE job_id = ?"
        assert connection.execute(statement, (ids[1],)).rowcount == 1
    connection.close()
    rig = await new_rig()
    for size in (1, 2, 50):
        seen, token = [], ""
        while True:
            page = await rig.stub.ListJobs(pb.ListJobsRequest(page_size=size, page_token=token))
            seen += [job.job_id for job in page.jobs]
            if not (token := page.next_page_token):
                break
        assert seen == [ids[3], ids[2], ids[0]]
    error = await failure(rig.stub.GetJob(pb.GetJobRequest(job_id=ids[1])))
    assert error.code() is grpc.StatusCode.DATA_LOSS


@pytest.mark.parametrize(("error", "logged"), [(JobNotFound("none"), False), (KeyError("a bug"), True)])
async def test_only_what_nobody_foresaw_is_logged_when_its_caller_has_gone_away(
    error: Exception, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gate, never_retrieved = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: never_retrieved.append(context))

    async def work() -> None:
        await gate.wait()
        raise error

    caller = asyncio.create_task(carry_through(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert never_retrieved == []
    assert bool([record for record in caplog.records if "caller went away" in record.getMessage()]) is logged
