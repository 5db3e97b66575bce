"""Merging what real FSDP2 training saved: every bit the same, under names that ``from_pretrained`` finds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import transformers
from safetensors.torch import load_file

from lmms_eval_grpc.engine.api import EvaluationError, Stage
from lmms_eval_grpc.engine.checkpoints.dcp import DistributedCheckpoint
from lmms_eval_grpc.engine.checkpoints.merge import MergedCheckpoint, merge_checkpoint
from tests.support.checkpoints import FAMILIES, build_checkpoint, save_checkpoint
from tests.support.reporters import Recorder
from tests.support.sharded_checkpoints import ShardedFolders, load_model, shard_checkpoints

RENAMED = ("llava_hf", "qwen2_5_vl")
"""Families whose tensors have other names in files than in memory."""
TIED = "tied_llama"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None) -> dict[str, Path]:
    """Unsharded checkpoints: one keeps its weights in bfloat16, one ties two of them."""
    folder = tmp_path_factory.mktemp("sources")
    made = {"llava_hf": build_checkpoint("llava_hf", folder / "llava_hf")}
    for name, family, settings in (("qwen2_5_vl", "qwen2_5_vl", {}), (TIED, "huggingface_text", {"tie": True})):
        torch.manual_seed(1)
        model, processor = FAMILIES[family]()
        if settings:
            model.config.tie_word_embeddings = True
            model = type(model)(model.config)
        else:
            model = model.to(torch.bfloat16)
        save_checkpoint(model, processor, folder / name)
        made[name] = folder / name
    return made


@pytest.fixture(scope="module")
def sharded(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardedFolders]:
    return shard_checkpoints(tmp_path_factory.mktemp("sharded"), sources)


def merge(checkpoint: Path, output: Path, **options: Any) -> MergedCheckpoint:
    return merge_checkpoint(checkpoint, output, Recorder(), **options)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Those of all weight files, by the names that they have there."""
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def assert_same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        same = torch.equal(found[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
        assert same, f"{name} has other bits"


def assert_loads_as(folder: Path, wanted: Path) -> None:
    """Both give the same model, with nothing missing, nothing left over, and the same answers."""
    kind = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    other = load_model(wanted)
    assert_same(model.state_dict(), other.state_dict())
    prompt = torch.arange(8)[None] + 10
    with torch.inference_mode():
        assert torch.equal(model(prompt).logits, other(prompt).logits)


@pytest.mark.parametrize("layout", ["accelerate", "app", "engine"])
@pytest.mark.parametrize("name", [*RENAMED, TIED])
def test_merged_weights_are_those_of_an_unsharded_save_bit_by_bit(
    sharded: dict[str, ShardedFolders], tmp_path: Path, name: str, layout: str
) -> None:
    folders = sharded[name]
    merged = merge(getattr(folders, layout), tmp_path / "merged")
    wanted = tensors(folders.plain())
    assert_same(tensors(tmp_path / "merged"), wanted)
    assert (merged.tensors, merged.files) == (len(wanted), 1)
    assert merged.size_bytes == sum(value.nbytes for value in wanted.values())
    assert_loads_as(tmp_path / "merged", folders.plain())
    # Even the same file, so that evaluations know the checkpoint as the same.
    name = "model.safetensors"
    assert (tmp_path / "merged" / name).read_bytes() == (folders.plain() / name).read_bytes()


@pytest.mark.parametrize("layout", ["app", "engine"])
def test_the_moving_average_is_merged_from_keys_or_from_a_folder_of_its_own(
    sharded: dict[str, ShardedFolders], tmp_path: Path, layout: str
) -> None:
    folders = sharded["llava_hf"]
    merge(getattr(folders, layout), tmp_path / "merged", ema=True)
    assert_same(tensors(tmp_path / "merged"), tensors(folders.plain(ema=True)))
    assert_loads_as(tmp_path / "merged", folders.plain(ema=True))


def test_of_tied_tensors_that_differ_both_are_kept(sources: dict[str, Path], tmp_path: Path) -> None:
    state = load_model(sources[TIED]).state_dict()
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    save(state, tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "merged", config_path=sources[TIED])
    found = tensors(tmp_path / "merged")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"] + 1)


def save(state: Mapping[str, Any], folder: Path) -> None:
    """What one process saves with torch.distributed.checkpoint."""
    dcp.save(dict(state), checkpoint_id=folder, no_dist=True)


@pytest.mark.parametrize(
    "prefix", ["", "model.", "state_dict.", "app.model.module.", "_orig_mod.", "model._fsdp_wrapped_module._orig_mod."]
)
def test_whatever_goes_before_the_names_is_found(sources: dict[str, Path], tmp_path: Path, prefix: str) -> None:
    state = load_model(sources["llava_hf"]).state_dict()
    other = {"optim.state.lm_head.weight": torch.ones(3), "lr_scheduler": {"last_epoch": 3}, "seen": torch.tensor(1)}
    save({**{f"{prefix}{name}": value for name, value in state.items()}, **other}, tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "merged", config_path=sources["llava_hf"])
    assert_same(tensors(tmp_path / "merged"), tensors(sources["llava_hf"]))


def test_names_of_files_are_as_good_as_names_in_memory(sources: dict[str, Path], tmp_path: Path) -> None:
    save(tensors(sources["llava_hf"]), tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "merged", config_path=sources["llava_hf"])
    assert_same(tensors(tmp_path / "merged"), tensors(sources["llava_hf"]))


def test_experts_that_are_one_tensor_in_memory_and_many_in_files_are_found(tmp_path: Path) -> None:
    config = transformers.Qwen3MoeConfig(
        **{"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 8, "num_experts": 4},
        **{"num_experts_per_tok": 2},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
        architectures=["Qwen3MoeForCausalLM"],
    )
    model = transformers.Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path / "plain")
    save({"model": model.state_dict()}, tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "merged", config_path=tmp_path / "plain")
    assert_loads_as(tmp_path / "merged", tmp_path / "plain")


def test_every_type_and_form_of_tensor_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    state = {
        "turned": torch.arange(12.0).reshape(3, 4).t(),
        "last_channel": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "part": torch.arange(100.0)[10:20],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "eighth": torch.randn(8).to(torch.float8_e4m3fn),
        "truth": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "counts": torch.arange(5, dtype=torch.int16),
    }
    save(state, tmp_path)
    shards = DistributedCheckpoint(tmp_path)
    assert_same({name: shards.read(name) for name in shards.tensors}, {k: v.contiguous() for k, v in state.items()})


def test_large_models_are_written_as_several_files_with_an_index(
    sharded: dict[str, ShardedFolders], tmp_path: Path
) -> None:
    folders = sharded["llava_hf"]
    merged = merge(folders.accelerate, tmp_path / "merged", max_shard_bytes=60_000)
    assert merged.files > 3
    assert len(list((tmp_path / "merged").glob("model-*-of-*.safetensors"))) == merged.files
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == merged.size_bytes
    assert len(index["weight_map"]) == merged.tensors
    assert_loads_as(tmp_path / "merged", folders.plain())


def test_the_configuration_names_the_type_that_the_weights_have(sources: dict[str, Path], tmp_path: Path) -> None:
    # Trained in float32, from a model that was in bfloat16: rounded, the weights would not be what was trained.
    model = load_model(sources["qwen2_5_vl"]).float()
    state = {name: value + 1e-5 for name, value in model.state_dict().items()}
    save({"model": state}, tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "merged", config_path=sources["qwen2_5_vl"])
    loaded = load_model(tmp_path / "merged").state_dict()
    assert_same(loaded, state)


def test_progress_is_told_in_bytes(sharded: dict[str, ShardedFolders], tmp_path: Path) -> None:
    reporter = Recorder()
    merged = merge_checkpoint(sharded["llava_hf"].accelerate, tmp_path / "merged", reporter)
    assert {report.stage for report in reporter.reports} == {Stage.MERGING}
    done = [report.bytes_done for report in reporter.reports]
    assert done == sorted(done)
    assert reporter.reports[-1].bytes_done == reporter.reports[-1].bytes_total == merged.size_bytes


def test_a_model_whose_code_transformers_does_not_have_is_merged_by_the_names_it_has(
    sources: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "config"
    config.mkdir()
    settings = {"model_type": "own_vlm", "auto_map": {"AutoConfig": "own.OwnConfig"}, "architectures": ["OwnVlm"]}
    (config / "config.json").write_text(json.dumps(settings))
    (config / "own.py").write_text("")
    state = {"a.weight": torch.randn(3, 4), "_orig_mod.b": torch.randn(2)}
    save({"model": state, "optimizer": {"a.weight": torch.randn(30, 4)}, "ema": {"a.weight": torch.ones(3)}}, tmp_path)
    merge(tmp_path, tmp_path / "merged", config_path=config)
    assert_same(tensors(tmp_path / "merged"), {"a.weight": state["a.weight"], "b": state["_orig_mod.b"]})
    assert (tmp_path / "merged" / "own.py").is_file()
    assert "could not be checked" in caplog.text


def refusal(checkpoint: Path, output: Path, **options: Any) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        merge(checkpoint, output, **options)
    assert not output.exists()
    assert not list(output.parent.glob(".*merging*"))
    return caught.value


def test_weights_that_do_not_fit_the_configuration_are_refused_with_their_names(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    state = load_model(sources[TIED]).state_dict()
    config = {"config_path": sources[TIED]}
    output = tmp_path / "merged"

    def refused(changed: Mapping[str, torch.Tensor], **options: Any) -> str:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        save({"model": dict(changed)}, folder)
        error = refusal(folder, output, **{**config, **options})
        assert error.reason == "NAMES_DO_NOT_MATCH"
        return error.message

    norm = "model.norm.weight"
    assert norm in refused({name: value for name, value in state.items() if name != norm})
    assert "model.extra" in refused({**state, "model.extra": torch.ones(1)})
    assert "[7]" in refused({**state, norm: torch.ones(7)})
    assert "merge_and_unload" in refused({**state, "model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1)})
    assert "LlavaForConditionalGeneration" in refused(state, config_path=sources["llava_hf"])
    assert "none of its tensors" in refused({"weights": torch.ones(1)})


def test_a_moving_average_that_is_not_there_is_refused(sharded: dict[str, ShardedFolders], tmp_path: Path) -> None:
    error = refusal(sharded["llava_hf"].accelerate, tmp_path / "merged", ema=True)
    assert error.reason == "NO_EMA_WEIGHTS"


def test_flat_parameters_of_fsdp1_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    save({"model.layers.0._flat_param": torch.ones(8)}, tmp_path / "run")
    error = refusal(tmp_path / "run", tmp_path / "merged", config_path=sources[TIED])
    assert error.reason == "NOT_SHARDED"
    assert "SHARDED_STATE_DICT" in error.message


def test_a_checkpoint_without_a_configuration_is_refused_with_the_places_that_were_searched(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    save({"model": {"a": torch.ones(1)}}, tmp_path / "run")
    error = refusal(tmp_path / "run", tmp_path / "merged")
    assert error.reason == "NO_MODEL_CONFIG"
    assert str(tmp_path / "run") in error.message
    assert str(tmp_path) in error.message
