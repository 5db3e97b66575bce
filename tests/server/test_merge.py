"""MergeCheckpoint: what is refused before it is queued, and what is queued."""

from __future__ import annotations

import shutil
import sys
import uuid
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.events import Completed
from lmms_eval_grpc.jobs.results import MergeResult
from lmms_eval_grpc.jobs.spec import CheckpointKind, EvaluationSpec, MergeSpec
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.server.conftest import Rig, detail, failure


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """By the names of its files, which is all that the server looks at."""
    folder = tmp_path / "run" / "checkpoint-7"
    shards = folder / "pytorch_model_fsdp_0"
    shards.mkdir(parents=True)
    for name in (".metadata", "__0_0.distcp"):
        (shards / name).write_bytes(b"not to be opened")
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return folder


async def merge(rig: Rig, request_id: str = "", **fields: object) -> job_pb2.Job:
    request = pb.MergeCheckpointRequest(
        spec=job_pb2.MergeSpec(**fields), request_id=request_id, labels={"a": "b"}, priority=4
    )  # type: ignore[arg-type]
    response: pb.MergeCheckpointResponse = await rig.stub.MergeCheckpoint(request)
    return response.job


async def violations(rig: Rig, request: pb.MergeCheckpointRequest) -> dict[str, str]:
    error = await failure(rig.stub.MergeCheckpoint(request))
    assert error.code().name == "INVALID_ARGUMENT"
    assert (await rig.stub.QueueStatus(pb.QueueStatusRequest())).queue.running_job_ids == []
    return {one.field: one.description for one in detail(error, "BadRequest").field_violations}


async def test_a_merge_is_queued_with_what_it_means_settled(rig: Rig, checkpoint: Path) -> None:
    job = await merge(rig, checkpoint_path=str(checkpoint.parent), max_shard_bytes=9)
    execution = await rig.executor.execution(job.job_id)
    assert execution.job.spec == MergeSpec(
        str(checkpoint), str(checkpoint.parent / "merged-checkpoint-7"), CheckpointKind.REGULAR, max_shard_bytes=9
    )
    assert job.kind == job_pb2.JOB_KIND_MERGE
    assert (dict(job.labels), job.priority) == ({"a": "b"}, 4)
    assert job.merge.checkpoint_kind == job_pb2.CHECKPOINT_KIND_REGULAR
    execution.tell(Completed(MergeResult("/out", 7, 2, 1)))
    ended = await rig.ended(job.job_id)
    assert ended.state == job_pb2.JOB_STATE_COMPLETED
    assert (ended.merge_result.output_path, ended.merge_result.tensor_count) == ("/out", 2)


async def test_a_repeated_merge_is_the_job_that_it_was(rig: Rig, checkpoint: Path, tmp_path: Path) -> None:
    key = str(uuid.uuid4())
    output = tmp_path / "out"
    first = await merge(rig, key, checkpoint_path=str(checkpoint), output_path=str(output))
    (output / "weights").mkdir(parents=True)
    again = await merge(rig, key, checkpoint_path=str(checkpoint), output_path=str(output))
    assert again.job_id == first.job_id
    other = pb.MergeCheckpointRequest(
        spec=job_pb2.MergeSpec(checkpoint_path=str(checkpoint), output_path=str(tmp_path / "other")), request_id=key
    )
    assert (await failure(rig.stub.MergeCheckpoint(other))).code().name == "ALREADY_EXISTS"


async def test_everything_that_is_wrong_is_told_at_once(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "full" / "x").mkdir(parents=True)
    spec = job_pb2.MergeSpec(
        checkpoint_path=str(tmp_path / "nothing"),
        output_path=str(tmp_path / "full"),
        checkpoint_kind=99,  # type: ignore[arg-type]
        max_shard_bytes=-1,
    )
    told = await violations(rig, pb.MergeCheckpointRequest(spec=spec, request_id="x", priority=5000))
    assert told.keys() == {
        *("request_id", "priority"),
        *(f"spec.{name}" for name in ("checkpoint_path", "output_path", "checkpoint_kind", "max_shard_bytes")),
    }
    assert "no folder" in told["spec.checkpoint_path"]
    assert "exists already" in told["spec.output_path"]


async def test_a_merge_of_nothing_is_refused(rig: Rig) -> None:
    assert (await violations(rig, pb.MergeCheckpointRequest())).keys() == {"spec"}
    empty = await violations(rig, pb.MergeCheckpointRequest(spec=job_pb2.MergeSpec()))
    assert empty.keys() == {"spec.checkpoint_path"}


async def test_paths_must_be_absolute(rig: Rig) -> None:
    spec = job_pb2.MergeSpec(checkpoint_path="run", output_path="out", config_path="base")
    told = await violations(rig, pb.MergeCheckpointRequest(spec=spec))
    assert told.keys() == {"spec.checkpoint_path", "spec.output_path", "spec.config_path"}
    assert all("absolute" in description for description in told.values())


async def test_what_it_is_instead_is_told(rig: Rig, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    for name in ("config.json", "model.safetensors"):
        (whole / name).write_text("{}")
    told = await violations(rig, pb.MergeCheckpointRequest(spec=job_pb2.MergeSpec(checkpoint_path=str(whole))))
    assert "whole checkpoint already" in told["spec.checkpoint_path"]


async def test_a_missing_configuration_is_told_before_the_job_waits(rig: Rig, checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    told = await violations(rig, pb.MergeCheckpointRequest(spec=job_pb2.MergeSpec(checkpoint_path=str(checkpoint))))
    assert str(checkpoint) in told["spec.config_path"]


async def test_a_place_that_cannot_be_written_is_told(rig: Rig, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = job_pb2.MergeSpec(checkpoint_path=str(checkpoint), output_path=str(tmp_path / "file" / "out"))
    told = await violations(rig, pb.MergeCheckpointRequest(spec=spec))
    assert "is a file" in told["spec.output_path"]


async def test_an_evaluation_of_shards_says_what_to_do_unless_it_may_merge(rig: Rig, checkpoint: Path) -> None:
    spec = rig.spec()
    spec.model_args["pretrained"] = str(checkpoint)
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec)))
    (told,) = detail(error, "BadRequest").field_violations
    assert told.field == "spec.model_args.pretrained"
    assert f"lmms-eval-grpc merge {checkpoint}" in told.description
    assert "merge='auto'" in told.description
    spec.merge = job_pb2.MERGE_MODE_AUTO
    assert (await rig.submit(spec=spec)).evaluation.merge == job_pb2.MERGE_MODE_AUTO
    (checkpoint / "config.json").unlink()
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec)))
    assert "no config.json" in detail(error, "BadRequest").field_violations[0].description


async def test_an_evaluation_that_merges_is_about_the_checkpoint_that_was_the_newest_when_it_was_asked_for(
    rig: Rig, checkpoint: Path
) -> None:
    spec = rig.spec(merge=job_pb2.MERGE_MODE_AUTO)
    spec.model_args["pretrained"] = str(checkpoint.parent)
    job = await rig.submit(spec=spec)
    shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-8"))
    queued = (await rig.executor.execution(job.job_id)).job.spec
    assert isinstance(queued, EvaluationSpec)
    assert queued.model_args["pretrained"] == str(checkpoint)
    assert job.evaluation.model_args["pretrained"] == str(checkpoint)


def test_the_server_can_look_at_checkpoints_without_torch() -> None:
    import subprocess

    code = (
        "import sys, lmms_eval_grpc.server.merging, lmms_eval_grpc.server.validate; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
