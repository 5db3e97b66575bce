"""Shards that are damaged, missing or hostile, and output that is there whole or not at all."""

from __future__ import annotations

import enum
import fcntl
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError, ProgressReport
from lmms_eval_grpc.engine.checkpoints import merge as merging
from lmms_eval_grpc.engine.checkpoints.automatic import merge_if_sharded, remove_merged
from lmms_eval_grpc.engine.checkpoints.layouts import is_loadable
from lmms_eval_grpc.engine.checkpoints.merge import merge_checkpoint
from lmms_eval_grpc.engine.checkpoints.staging import staging_folder
from lmms_eval_grpc.executors import scratch
from tests.support.checkpoints import build_checkpoint
from tests.support.reporters import Recorder
from tests.support.sharded_checkpoints import load_model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None) -> Path:
    return build_checkpoint("huggingface_text", tmp_path_factory.mktemp("source") / "text")


@pytest.fixture
def checkpoint(source: Path, tmp_path: Path) -> Path:
    """A sharded checkpoint with its configuration beside the shards."""
    folder = tmp_path / "run"
    dcp.save({"model": load_model(source).state_dict()}, checkpoint_id=folder, no_dist=True)
    shutil.copy(source / "config.json", folder)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "merged"


def refused(checkpoint: Path, output: Path) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        merge_checkpoint(checkpoint, output, Recorder())
    assert not output.exists()
    return caught.value


def test_a_missing_or_shortened_file_is_named(checkpoint: Path, output: Path) -> None:
    shards = checkpoint / "__0_0.distcp"
    whole = shards.read_bytes()
    shards.write_bytes(whole[:-100])
    error = refused(checkpoint, output)
    assert error.reason == "SHARDS_UNREADABLE"
    assert "__0_0.distcp" in error.message
    shards.rename(checkpoint / "__1_0.distcp")
    assert "__0_0.distcp is missing" in refused(checkpoint, output).message


def test_bytes_that_are_no_tensor_are_told(checkpoint: Path, output: Path) -> None:
    shards = checkpoint / "__0_0.distcp"
    shards.write_bytes(b"\0" * shards.stat().st_size)
    assert refused(checkpoint, output).reason == "SHARDS_UNREADABLE"


def test_metadata_of_any_python_3_11_is_read(checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    by_name = lambda self, protocol: (getattr, (type(self), self._name_))  # noqa: E731 - as 3.11.0 to 3.11.3 have it
    with monkeypatch.context() as patch:
        patch.setattr(enum.Enum, "__reduce_ex__", by_name)
        written = pickle.dumps(metadata)
    assert b"getattr" in written
    (checkpoint / ".metadata").write_bytes(written)
    merge_checkpoint(checkpoint, output, Recorder())
    assert (output / "model.safetensors").is_file()


@pytest.mark.parametrize("asked", [(os, "system"), (dict, "fromkeys"), (Path, "cwd")])
def test_metadata_gets_no_other_attributes(checkpoint: Path, output: Path, asked: tuple[Any, str]) -> None:
    class Attribute:
        def __reduce__(self) -> Any:
            return getattr, (asked[0].__name__, asked[1])

    (checkpoint / ".metadata").write_bytes(pickle.dumps(Attribute()))
    error = refused(checkpoint, output)
    assert error.reason == "SHARDS_UNREADABLE"
    assert "which no checkpoint needs" in error.message


class _Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_metadata_cannot_run_code(checkpoint: Path, output: Path, tmp_path: Path) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(_Hostile(tmp_path / "owned")))
    error = refused(checkpoint, output)
    assert error.reason == "SHARDS_UNREADABLE"
    assert "mkdir" in error.message
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["../secret.distcp", "{tmp_path}/secret.distcp", "sub/__0_0.distcp"])
def test_metadata_cannot_name_files_elsewhere(checkpoint: Path, output: Path, tmp_path: Path, name: str) -> None:
    shards = checkpoint / "__0_0.distcp"
    (tmp_path / "secret.distcp").write_bytes(shards.read_bytes())
    (checkpoint / "sub").mkdir()
    (checkpoint / "sub" / "__0_0.distcp").write_bytes(shards.read_bytes())
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    for stored in metadata.storage_data.values():
        stored.relative_path = name.format(tmp_path=tmp_path)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    error = refused(checkpoint, output)
    assert error.reason == "SHARDS_UNREADABLE"
    assert "which is elsewhere" in error.message


def test_a_shard_cannot_run_code(source: Path, output: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    torch.save({"model.norm.weight": _Hostile(tmp_path / "owned")}, folder / "model_world_size_1_rank_0.pt")
    assert refused(folder, output).reason == "SHARDS_UNREADABLE"
    assert not (tmp_path / "owned").exists()


def test_a_rank_that_is_missing_is_named(source: Path, output: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    for rank in (0, 2):
        torch.save(load_model(source).state_dict(), folder / f"model_world_size_3_rank_{rank}.pt")
    assert "are missing: 1" in refused(folder, output).message


class _Stopping(Recorder):
    """Asks for a stop, or fails, once something is written."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        super().__init__()
        self.error = error

    def progress(self, report: ProgressReport) -> None:
        super().progress(report)
        if self.error is not None and report.bytes_done:
            raise self.error

    def cancelled(self) -> bool:
        return bool(self.reports and self.reports[-1].bytes_done)


@pytest.mark.parametrize("error", [None, MemoryError])
def test_what_is_stopped_on_the_way_leaves_nothing(
    checkpoint: Path, output: Path, error: type[BaseException] | None
) -> None:
    with pytest.raises(error or EvaluationCancelled):
        merge_checkpoint(checkpoint, output, _Stopping(error))
    assert sorted(path.name for path in output.parent.iterdir()) == [checkpoint.name]


def test_what_a_crash_left_is_removed_by_the_next_attempt(checkpoint: Path, output: Path) -> None:
    left = staging_folder(output)
    (left / "folder").mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    (left / "folder" / "old").write_bytes(b"old")
    merge_checkpoint(checkpoint, output, Recorder())
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "model.safetensors"]
    assert not left.exists()


def test_two_merges_never_write_to_one_place(checkpoint: Path, output: Path) -> None:
    left = staging_folder(output)
    left.mkdir()
    descriptor = os.open(left, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert refused(checkpoint, output).reason == "OUTPUT_BUSY"
    os.close(descriptor)
    merge_checkpoint(checkpoint, output, Recorder())


def test_what_is_there_already_is_never_touched(checkpoint: Path, output: Path) -> None:
    output.mkdir()
    merge_checkpoint(checkpoint, output, Recorder())
    before = (output / "model.safetensors").read_bytes()
    with pytest.raises(EvaluationError, match="exists already") as caught:
        merge_checkpoint(checkpoint, output, Recorder())
    assert caught.value.reason == "OUTPUT_EXISTS"
    assert (output / "model.safetensors").read_bytes() == before


def test_what_appears_during_a_merge_is_never_touched(
    checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = merging._copy_companions

    def copy_late(*arguments: Any) -> None:
        copy(*arguments)
        output.mkdir()
        (output / "mine").write_text("")

    monkeypatch.setattr(merging, "_copy_companions", copy_late)
    with pytest.raises(EvaluationError) as caught:
        merge_checkpoint(checkpoint, output, Recorder())
    assert caught.value.reason == "OUTPUT_EXISTS"
    assert [path.name for path in output.iterdir()] == ["mine"]
    assert not staging_folder(output).exists()


def test_an_attempt_after_one_that_was_done_takes_its_work_over(checkpoint: Path, output: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "job" / "merge.json"
    first = merge_checkpoint(checkpoint, output, Recorder(), receipt=receipt)
    shutil.rmtree(checkpoint)  # the trainer has gone on meanwhile
    assert merge_checkpoint(checkpoint, output, Recorder(), receipt=receipt) == first
    # Another folder in its place is not the one that was made.
    output.rename(tmp_path / "moved")
    output.mkdir()
    with pytest.raises(EvaluationError):
        merge_checkpoint(checkpoint, output, Recorder(), receipt=receipt)


def test_an_evaluation_merges_once_for_all_its_attempts(checkpoint: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "job"
    config = EvaluationConfig("hf", ("t",), model_args={"pretrained": str(checkpoint), "dtype": "auto"})
    assert merge_if_sharded(config, run_dir, Recorder()) is config  # not asked for
    config = replace(config, merge=True)
    loadable = merge_if_sharded(config, run_dir, Recorder())
    assert loadable.model_args["dtype"] == "auto"
    merged = Path(loadable.model_args["pretrained"])
    assert is_loadable(merged)
    assert merged == run_dir / scratch.MERGED_CHECKPOINT, "or nobody removes it when the worker is killed"
    shutil.rmtree(checkpoint)
    assert merge_if_sharded(config, run_dir, Recorder()) == loadable
    remove_merged(run_dir)
    assert list(run_dir.iterdir()) == []


def test_what_needs_no_merging_is_evaluated_as_it_is(source: Path, tmp_path: Path) -> None:
    for pretrained in (str(source), "Qwen/Qwen2.5-VL-3B-Instruct"):
        config = EvaluationConfig("hf", ("t",), model_args={"pretrained": pretrained}, merge=True)
        assert merge_if_sharded(config, tmp_path / "job", Recorder()) is config
