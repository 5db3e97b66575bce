"""What the Ray executor is made of and needs no Ray: names of nodes, and folders that travel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmms_eval_grpc.executors.ray.actor import ActorSettings, JobActor
from lmms_eval_grpc.executors.ray.executor import RayExecutor
from lmms_eval_grpc.executors.ray.job_files import CHUNK_BYTES, FileChange, FolderSource, apply, snapshot
from lmms_eval_grpc.executors.ray.messages import Node, Nodes
from lmms_eval_grpc.executors.ray.slots import Roster
from lmms_eval_grpc.jobs.events import Failed, Stopped, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.secrets import PLACEHOLDER, SecretsLost
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import JobState

GPU_NODE = Node("aaa", "10.0.0.2", gpus=2, cpus=8, gpu_product="H100")
CPU_NODE = Node("bbb", "10.0.0.3", gpus=0, cpus=4, memory_bytes=1000)


def names(roster: Roster, *nodes: Node) -> list[str]:
    return [slot.device.name for slot in roster.slots(nodes)]


def test_gpus_are_slots_and_nodes_without_any_have_none_beside_them() -> None:
    assert names(Roster(None), GPU_NODE, CPU_NODE) == ["10.0.0.2/cuda:0", "10.0.0.2/cuda:1"]
    assert names(Roster(2), GPU_NODE, CPU_NODE) == [
        *("10.0.0.2/cuda:0", "10.0.0.2/cuda:1", "10.0.0.3/cpu:0", "10.0.0.3/cpu:1")
    ]


def test_in_a_cluster_without_gpus_each_node_runs_a_job_if_ray_gives_it_a_core() -> None:
    assert names(Roster(None), CPU_NODE) == ["10.0.0.3/cpu:0"]
    assert names(Roster(9), CPU_NODE) == [f"10.0.0.3/cpu:{index}" for index in range(4)]
    assert names(Roster(None), Node("head", "10.0.0.1", gpus=0, cpus=0)) == []


def test_slots_say_what_and_where_they_are() -> None:
    slot = Roster(None).slots([GPU_NODE])[0]
    assert (slot.node_id, slot.gpu, slot.node_slots) == ("aaa", True, 2)
    assert (slot.device.host, slot.device.kind, slot.device.product) == ("10.0.0.2", "cuda", "H100")


def test_nodes_of_one_address_have_numbers_and_a_machine_that_comes_back_its_old_name() -> None:
    roster = Roster(1)
    one, two = (Node(node_id, "10.0.0.3", gpus=0, cpus=1) for node_id in ("one", "two"))
    assert names(roster, one, two) == ["10.0.0.3/cpu:0", "10.0.0.3-2/cpu:0"]
    assert names(roster, two) == ["10.0.0.3-2/cpu:0"]
    assert names(roster, two, Node("again", "10.0.0.3", gpus=0, cpus=1)) == ["10.0.0.3/cpu:0", "10.0.0.3-2/cpu:0"]


async def test_of_a_job_that_lacks_its_secrets_nothing_is_kept(tmp_path: Path) -> None:
    executor = RayExecutor()
    executor._take(Nodes((CPU_NODE,)))
    spec = EvaluationSpec("openai", ("t",), {"model": "m", "api_key": PLACEHOLDER})
    with pytest.raises(SecretsLost):
        await executor.execute(Job("j", spec, JobState.RUNNING, 0.0, 1, attempt=1), executor.devices, tmp_path)
    assert not executor._executions  # which the executor's end would wait for


def copy_growth(source: FolderSource, there: Path) -> int:
    changes = list(source.growth())
    for change in changes:
        apply(there, change)
    return sum(len(change.data) for change in changes)


def test_what_is_added_to_a_file_travels_once(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    source = FolderSource(here)
    log = here / "run_log.jsonl"
    assert copy_growth(source, there) == 0
    log.write_bytes(b"one\n")
    assert copy_growth(source, there) == 4
    assert copy_growth(source, there) == 0
    with log.open("ab") as file:
        file.write(b"x" * (CHUNK_BYTES + 10))
    assert copy_growth(source, there) == CHUNK_BYTES + 10
    assert (there / "run_log.jsonl").read_bytes() == log.read_bytes()


def test_a_file_that_is_begun_anew_or_cut_is_sent_again(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    source = FolderSource(here)
    for content in (b"first attempt\n", b"second attempt, longer\n", b"cut\n", b"cut\nand on\n", b""):
        (here / "samples.jsonl").write_bytes(content)
        copy_growth(source, there)
        assert (there / "samples.jsonl").read_bytes() == content


def test_a_folder_travels_with_all_that_is_in_it_but_for_what_belongs_to_the_machine(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "results" / "model").mkdir(parents=True)
    (here / "results" / "model" / "results.json").write_text("{}")
    (here / "empty").touch()
    (here / "run_log.jsonl").write_text('{"kind": "header"}\n{"kind": "answ')
    (here / "worker.json").write_text("{}")
    for folder in ("merged_checkpoint", ".merged_checkpoint.merging", "tmp"):
        (here / folder).mkdir()
        (here / folder / "model.safetensors").write_text("as large as a model")
    (here / "ray_actor").write_text("host-1")
    for change in snapshot(here):
        apply(there, change)
    found = {str(path.relative_to(there)): path.read_text() for path in there.rglob("*") if path.is_file()}
    assert found == {"results/model/results.json": "{}", "empty": "", "run_log.jsonl": '{"kind": "header"}\n'}


def test_what_came_from_the_other_side_is_not_sent_back(tmp_path: Path) -> None:
    server, node = tmp_path / "server", tmp_path / "node"
    server.mkdir()
    log = server / "run_log.jsonl"
    log.write_bytes(b"answered before\ntorn by the cra")
    source = FolderSource(node)
    for change in snapshot(server):
        apply(node, change)
        source.know(change)
    assert copy_growth(source, server) == 0
    with (node / "run_log.jsonl").open("ab") as file:
        file.write(b"answered now\n")
    assert copy_growth(source, server) == len(b"answered now\n")
    assert log.read_bytes() == b"answered before\nanswered now\n"


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    for path in ("../outside", "/tmp/outside", "a/../../outside"):
        with pytest.raises(ValueError, match="leads out of the job's folder"):
            apply(tmp_path / "there", FileChange(path, 0, b""))
    assert not (tmp_path / "outside").exists()


class Unending:
    """An execution whose worker goes on until it is ended."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def reports(self) -> AsyncIterator[WorkerReport]:
        await self.ended.wait()
        yield Stopped()

    async def end(self) -> None:
        self.ended.set()


async def test_an_actor_that_cannot_read_its_files_ends_the_job_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the driver would wait for a last word for ever, and hold the job's devices as long."""
    settings = ActorSettings(
        devices=1,
        gpus=False,
        node_slots=1,
        include_paths=(),
        torch_threads=1,
        use_template=False,
        cancel_grace=1.0,
        heartbeat_timeout=None,
        stall_timeout=None,
        environment={},
        lease=3600.0,
    )
    actor, execution = JobActor(settings), Unending()

    async def execute(*_: object) -> Unending:
        return execution

    def growth(_: FolderSource) -> list[FileChange]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(actor._executor, "execute", execute)
    monkeypatch.setattr(FolderSource, "growth", growth)
    job = Job("j", EvaluationSpec("m", ("t",)), JobState.RUNNING, time.time(), 1, attempt=1)
    async with asyncio.timeout(60):
        await actor.run(job, str(tmp_path / "elsewhere"), shared=False)
        news = await actor.news(0, 0)
        while not news.reports:
            news = await actor.news(0, 0)
    ((_, last),) = news.reports
    assert isinstance(last, Failed)
    assert "Input/output error" in last.error.message
    assert execution.ended.is_set()
    await actor.close()
