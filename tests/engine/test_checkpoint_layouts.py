"""What a folder is, from the names of its files: what is merged, and what is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.checkpoints.companions import find_companions
from lmms_eval_grpc.engine.checkpoints.layouts import (
    NotSharded,
    ShardFormat,
    find_shards,
    find_unmerged,
    merged_name,
)

_DCP = ShardFormat.DISTRIBUTED_CHECKPOINT
DCP = (".metadata", "__0_0.distcp", "__1_0.distcp")
RANKS = ("model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt")


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


def under(place: str, names: tuple[str, ...]) -> list[str]:
    return [f"{place}/{name}" for name in names]


@pytest.mark.parametrize(
    ("names", "shards", "format"),
    [
        (DCP, ".", _DCP),
        (under("pytorch_model_fsdp_0", DCP), "pytorch_model_fsdp_0", _DCP),
        (under("model", DCP), "model", _DCP),
        (under("pytorch_model_fsdp_0", RANKS), "pytorch_model_fsdp_0", ShardFormat.RANK_FILES),
        (RANKS, ".", ShardFormat.RANK_FILES),
        (under("actor", RANKS), "actor", ShardFormat.RANK_FILES),
        ([*under("model", DCP), *under("optimizer_0", DCP), *under("optim", DCP)], "model", _DCP),
        ([*under("model", DCP), *under("critic", DCP)], "model", _DCP),
        ([*under("weights", DCP), *under("weights_ema", DCP)], "weights", _DCP),
    ],
)  # fmt: skip
def test_shards_are_found_where_trainers_put_them(
    tmp_path: Path, names: tuple[str, ...], shards: str, format: str
) -> None:
    found = find_shards(make(tmp_path / "checkpoint-300", *names))
    assert found.shards == tmp_path / "checkpoint-300" / shards
    assert found.format == format
    assert merged_name(found, ema=False) == tmp_path / "merged-checkpoint-300"


def test_of_several_steps_the_newest_that_has_shards_is_taken(tmp_path: Path) -> None:
    for step in (90, 100):
        make(tmp_path / "run" / f"checkpoint-{step}", *under("pytorch_model_fsdp_0", DCP))
    make(tmp_path / "run" / "checkpoint-110", "pytorch_model_fsdp_0/__0_0.distcp")  # being saved
    found = find_shards(tmp_path / "run")
    assert found.folder == tmp_path / "run" / "checkpoint-100"
    # Not checkpoint-100-merged: a Trainer would count it among its checkpoints, and delete it.
    assert merged_name(found, ema=True) == tmp_path / "run" / "merged-ema-checkpoint-100"
    torchtitan = make(tmp_path / "outputs", *under("checkpoint/step-5", DCP), *under("checkpoint/step-40", DCP))
    assert find_shards(torchtitan).shards == torchtitan / "checkpoint" / "step-40"


def test_the_moving_average_is_the_folder_that_says_so(tmp_path: Path) -> None:
    engine = make(tmp_path / "engine", *under("pytorch_model_fsdp_0", RANKS), *under("pytorch_ema_model_fsdp_0", RANKS))
    assert find_shards(engine).shards.name == "pytorch_model_fsdp_0"
    assert find_shards(engine, ema=True).shards.name == "pytorch_ema_model_fsdp_0"
    # Where no folder says so the keys may.
    assert find_shards(make(tmp_path / "one", *DCP), ema=True).shards == tmp_path / "one"
    only = make(tmp_path / "only", *under("ema", DCP))
    with pytest.raises(NotSharded, match="only EMA weights"):
        find_shards(only)
    assert find_shards(only / "ema").shards == only / "ema"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "is empty"),
        (["config.json", "model.safetensors"], "whole checkpoint already"),
        (["config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors"], "whole checkpoint"),
        (["adapter_config.json", "adapter_model.safetensors"], "PEFT adapter"),
        ([*DCP, "common.pt", "metadata.json"], "Megatron"),
        (["latest_checkpointed_iteration.txt", "iter_0000100/mp_rank_00/model_optim_rng.pt"], "Megatron"),
        (["latest", "zero_to_fp32.py", "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt"], "DeepSpeed"),
        (["shard-00001-model-00001-of-00002.safetensors"], "HuggingFaceStorageWriter"),
        (["__0_0.distcp", "__1_0.distcp"], "no .metadata"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "no .metadata"),
        ([".metadata"], "none of the *.distcp files"),
        (["pytorch_model_fsdp_0_rank0.bin", "pytorch_model_fsdp_0_rank1.bin"], "LOCAL_STATE_DICT"),
        (["pytorch_model_fsdp.bin"], "only config.json is missing"),
        (["checkpoint.pt"], "single files"),
        (["notes.txt"], "notes.txt"),
        (["config.json", "trainer_state.json"], "neither .metadata"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_by_what_it_is(tmp_path: Path, names: list[str], words: str) -> None:
    folder = make(tmp_path / "checkpoint", *names)
    folder.mkdir(exist_ok=True)
    with pytest.raises(NotSharded) as caught:
        find_shards(folder)
    assert words in caught.value.message
    assert str(folder) in caught.value.message
    assert find_unmerged(folder) is None


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "model.pt")
    with pytest.raises(NotSharded, match="single file of weights"):
        find_shards(tmp_path / "model.pt")
    with pytest.raises(NotSharded, match="no folder"):
        find_shards(tmp_path / "nothing")


def test_several_that_could_be_meant_are_listed(tmp_path: Path) -> None:
    folder = make(tmp_path, *under("actor", RANKS), *under("critic", RANKS))
    with pytest.raises(NotSharded, match="one of: actor, critic"):
        find_shards(folder)
    assert find_shards(folder / "actor").shards == folder / "actor"


def test_a_checkpoint_that_was_merged_in_place_is_whole(tmp_path: Path) -> None:
    folder = make(tmp_path, *under("pytorch_model_fsdp_0", RANKS))
    assert find_unmerged(folder) is not None
    make(folder, "config.json", "model.safetensors")
    assert find_unmerged(folder) is None


def describe(folder: Path, **more: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **more}))


def test_files_nearest_to_the_shards_win(tmp_path: Path) -> None:
    run = tmp_path / "run"
    step = make(run / "checkpoint-3", *under("model", DCP), "tokenizer.json", "trainer_state.json", "config.json")
    describe(run)
    make(run, "tokenizer.json", "chat_template.jinja", "train.py", "notes.txt", "model.safetensors.index.json")
    found = find_companions(find_shards(step), None)
    # The step's own config.json describes no model.
    assert found.config_folder == run
    assert found.files == {
        "config.json": run / "config.json",
        "chat_template.jinja": run / "chat_template.jinja",
        "tokenizer.json": step / "tokenizer.json",
    }


def test_a_named_folder_is_the_only_one_that_counts(tmp_path: Path) -> None:
    step = make(tmp_path / "checkpoint-3", *DCP, "tokenizer.json")
    base = tmp_path / "base"
    describe(base, auto_map={"AutoModel": "own.Own"})
    make(base, "own.py", "model.safetensors", "preprocessor_config.json", "vocab.json", "sub/other.json")
    found = find_companions(find_shards(step), base)
    assert sorted(found.files) == ["config.json", "own.py", "preprocessor_config.json", "vocab.json"]
    assert all(path.parent == base for path in found.files.values())


def test_verl_keeps_them_in_a_folder_beside(tmp_path: Path) -> None:
    step = make(tmp_path / "global_step_3", *under("actor", RANKS))
    describe(step / "actor" / "huggingface")
    assert find_companions(find_shards(step), None).config_folder == step / "actor" / "huggingface"


def test_places_too_far_above_are_not_searched(tmp_path: Path) -> None:
    step = make(tmp_path / "a" / "b" / "c" / "d" / "checkpoint-3", *DCP)
    describe(tmp_path)
    with pytest.raises(EvaluationError, match="searched"):
        find_companions(find_shards(step), None)
    describe(tmp_path / "a" / "b")
    assert find_companions(find_shards(step), None).config_folder == tmp_path / "a" / "b"
