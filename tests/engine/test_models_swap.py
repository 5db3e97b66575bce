"""Putting another checkpoint's weights into a loaded model: as freshly loaded, or refused with nothing changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.device import forbid_accelerators
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.entry import LoadSettings
from lmms_eval_grpc.engine.models.huggingface import ahead
from lmms_eval_grpc.engine.models.huggingface import backend as backend_module
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from lmms_eval_grpc.engine.models.huggingface.weights import CannotSwap
from lmms_eval_grpc.engine.models.protocol import CannotReuse, GenerationRequest
from tests.support.backends import ScriptedBackend
from tests.support.checkpoints import SEEING, build_checkpoint, small_args

Tiny = Callable[[str], Path]


def load(family: str, folder: Path, **model_args: Any) -> HuggingFaceBackend:
    arguments = {"pretrained": str(folder), **small_args(family), **model_args}
    backend = registry.create(family, arguments, device="cpu")
    assert isinstance(backend, HuggingFaceBackend)
    return backend


def texts(backend: HuggingFaceBackend, images: list[bytes]) -> list[str]:
    sees = "image" in backend.capabilities.modalities
    shown = [[{"type": "image", "url": image}] if sees else [] for image in images]
    requests = [
        GenerationRequest(
            [{"role": "user", "content": [*picture, {"type": "text", "text": f"What is {number}?"}]}],
            {"max_new_tokens": 8},
        )
        for number, picture in enumerate(shown)
    ]
    answers = [answer for batch in backend.generate(requests) for answer in batch]
    assert all(answer.response.error is None for answer in answers)
    return [answer.response.text for answer in sorted(answers, key=lambda answer: answer.index)]


def assert_same(swapped: HuggingFaceBackend, fresh: HuggingFaceBackend) -> None:
    """Every tensor bit by bit, those that no checkpoint holds included."""
    for part in ("named_parameters", "named_buffers"):
        found, wanted = dict(getattr(swapped.model, part)()), dict(getattr(fresh.model, part)())
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor), name
    assert swapped.identity == fresh.identity


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("family", sorted({*SEEING, "huggingface_text"} - {"qwen2_5_omni"}))
def test_a_swapped_model_is_as_freshly_loaded(
    family: str, dtype: str, tiny: Tiny, tmp_path: Path, digit_images: list[bytes]
) -> None:
    other = build_checkpoint(family, tmp_path / "other", seed=1)
    backend = load(family, tiny(family), dtype=dtype)
    before = texts(backend, digit_images[:5])
    embedded = backend.model.get_input_embeddings().weight.clone()
    backend.swap(str(other))
    assert not torch.equal(backend.model.get_input_embeddings().weight, embedded)
    fresh = load(family, other, dtype=dtype)
    assert_same(backend, fresh)
    assert texts(backend, digit_images[:5]) == texts(fresh, digit_images[:5])
    backend.swap(str(tiny(family)))
    assert texts(backend, digit_images[:5]) == before


@pytest.mark.parametrize("way", ["load", "swap"])
def test_a_checkpoint_that_is_written_while_it_is_loaded_is_neither_version(
    way: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny("llava_hf"), tmp_path / "rewritten")
    newer = build_checkpoint("llava_hf", tmp_path / "newer", seed=1)
    backend = load("llava_hf", tiny("llava_hf"))
    name = {"load": "load_checkpoint", "swap": "load_weights_into"}[way]
    real = getattr(backend_module, name)

    def load_and_overwrite(*arguments: Any, **more: Any) -> Any:
        loaded = real(*arguments, **more)
        shutil.copy(newer / "model.safetensors", folder)
        return loaded

    monkeypatch.setattr(backend_module, name, load_and_overwrite)
    with pytest.raises(EvaluationError, match="was written while it was loaded"):
        load("llava_hf", folder) if way == "load" else backend.swap(str(folder))


def test_a_checkpoint_with_other_models_in_it_is_to_be_loaded(tiny: Tiny, tmp_path: Path) -> None:
    backend = load("qwen2_5_omni", tiny("qwen2_5_omni"))
    with pytest.raises(CannotSwap, match="talker"):
        backend.swap(str(build_checkpoint("qwen2_5_omni", tmp_path / "other", seed=1)))
    assert backend.identity == load("qwen2_5_omni", tiny("qwen2_5_omni")).identity


def test_a_checkpoint_in_several_files(tiny: Tiny, tmp_path: Path) -> None:
    single = build_checkpoint("llava_hf", tmp_path / "single", seed=1)
    sharded = shutil.copytree(single, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    load("llava_hf", single).model.save_pretrained(sharded, max_shard_size="50KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    backend = load("llava_hf", tiny("llava_hf"))
    backend.swap(str(sharded))
    assert_same(backend, load("llava_hf", sharded))


def test_tied_weights_count_as_one(tmp_path: Path) -> None:
    folders = []
    for seed in (0, 1):
        folder = build_checkpoint("qwen2_vl", tmp_path / str(seed), seed=seed)
        config = json.loads((folder / "config.json").read_text())
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
        (folder / "config.json").write_text(json.dumps(config))
        weights = load_file(folder / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    backend = load("qwen2_vl", folders[0])
    assert backend.model.lm_head.weight is backend.model.get_input_embeddings().weight
    backend.swap(str(folders[1]))
    assert_same(backend, load("qwen2_vl", folders[1]))
    assert backend.model.lm_head.weight is backend.model.get_input_embeddings().weight


def test_the_processor_and_the_generation_defaults_come_along(tiny: Tiny, tmp_path: Path) -> None:
    other = build_checkpoint("llava_hf", tmp_path / "other", seed=1)
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text("Be brief.\n" + template)
    defaults = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(defaults | {"repetition_penalty": 1.5}))
    backend = load("llava_hf", tiny("llava_hf"))
    backend.swap(str(other))
    fresh = load("llava_hf", other)
    assert_same(backend, fresh)
    assert backend._generation_defaults.to_dict() == fresh._generation_defaults.to_dict()
    assert backend._generation_defaults.repetition_penalty == 1.5


class TestRefused:
    """Nothing of the backend has changed where a checkpoint cannot be swapped in."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return build_checkpoint("idefics3", tmp_path / "other", seed=1)

    def refuse(self, tiny: Tiny, folder: Path, match: str) -> None:
        backend = load("idefics3", tiny("idefics3"))
        with pytest.raises(CannotSwap, match=match):
            backend.swap(str(folder))
        assert_same(backend, load("idefics3", tiny("idefics3")))

    def edit_weights(self, folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def test_another_architecture(self, tiny: Tiny) -> None:
        self.refuse(tiny, tiny("llava_hf"), r"config\.json differs in .*model_type")

    def test_another_setting(self, tiny: Tiny, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["rms_norm_eps"] = 0.5
        (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "4.99"}))
        self.refuse(tiny, folder, r"config\.json differs in text_config$")

    def test_no_dtype(self, tiny: Tiny, tmp_path: Path) -> None:
        folders = [shutil.copytree(tiny("idefics3"), tmp_path / name) for name in ("a", "b")]
        for folder in folders:
            config = json.loads((folder / "config.json").read_text())
            del config["dtype"]
            (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CannotSwap, match="no dtype"):
            load("idefics3", folders[0]).swap(str(folders[1]))

    def test_a_missing_weight(self, tiny: Tiny, folder: Path) -> None:
        self.edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
        self.refuse(tiny, folder, r"no tensors for lm_head\.weight")

    def test_a_weight_too_many(self, tiny: Tiny, folder: Path) -> None:
        self.edit_weights(folder, lambda weights: weights.update({"left.over": torch.zeros(1)}))
        self.refuse(tiny, folder, r"left\.over has no place")

    def test_another_shape(self, tiny: Tiny, folder: Path) -> None:
        self.edit_weights(folder, lambda weights: weights.update({"lm_head.weight": torch.zeros(3, 64)}))
        self.refuse(tiny, folder, r"lm_head\.weight is \[3, 64\]")

    def test_a_file_that_is_still_being_written(self, tiny: Tiny, folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refuse(tiny, folder, "still being written")

    def test_a_file_that_is_not_there(self, tiny: Tiny, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        self.refuse(tiny, folder, r"has no model\.safetensors")

    def test_a_broken_processor(self, tiny: Tiny, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{")
        self.refuse(tiny, folder, str(folder))

    def test_no_folder(self, tiny: Tiny, tmp_path: Path) -> None:
        self.refuse(tiny, tmp_path / "nowhere", "nowhere")


def test_a_read_that_fails_half_way_says_so(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: Any, folder: Path) -> None:
        raise OSError("Input/output error")

    backend = load("idefics3", tiny("idefics3"))
    monkeypatch.setattr(backend_module, "load_weights_into", fail)
    with pytest.raises(EvaluationError, match="half-way") as caught:
        backend.swap(str(build_checkpoint("idefics3", tmp_path / "other", seed=1)))
    assert caught.value.reason == "MODEL_LOAD_FAILED"


class TestBecomingWhatAnotherJobAsksFor:
    """``registry.reuse``: as if loaded by ``registry.load`` with the same arguments, or refused."""

    def become(self, backend: HuggingFaceBackend, folder: Path, batch_size: int | None = None, **more: Any) -> None:
        arguments = {"pretrained": str(folder), **small_args("idefics3"), **more}
        registry.reuse(backend, "idefics3", arguments, LoadSettings("cpu", batch_size))

    def test_the_same_weights_are_not_read_again(
        self, tiny: Tiny, tmp_path: Path, digit_images: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = load("idefics3", tiny("idefics3"))
        before = texts(backend, digit_images[:5])
        copy = shutil.copytree(tiny("idefics3"), tmp_path / "copy")
        monkeypatch.setattr(backend_module, "load_weights_into", None)
        self.become(backend, copy)
        assert_same(backend, load("idefics3", copy))
        assert texts(backend, digit_images[:5]) == before

    def test_other_weights_are_put_in_their_place(self, tiny: Tiny, tmp_path: Path, digit_images: list[bytes]) -> None:
        backend = load("idefics3", tiny("idefics3"))
        backend._sizer.limit = 1
        other = build_checkpoint("idefics3", tmp_path / "other", seed=1)
        self.become(backend, other)
        fresh = load("idefics3", other)
        assert_same(backend, fresh)
        assert backend._sizer.limit == fresh._sizer.limit
        assert texts(backend, digit_images[:5]) == texts(fresh, digit_images[:5])

    @pytest.mark.parametrize(
        ("more", "match"),
        [
            ({"batch_size": 3}, "another batch_size"),
            ({"max_new_tokens": 3}, "another max_new_tokens"),
            ({"system_prompt": "Be brief."}, "another system_prompt"),
        ],
    )
    def test_other_arguments_are_refused(self, tiny: Tiny, more: dict[str, Any], match: str) -> None:
        backend = load("idefics3", tiny("idefics3"))
        with pytest.raises(CannotReuse, match=match):
            self.become(backend, tiny("idefics3"), **more)

    def test_a_chat_template_whose_file_has_changed_is_refused(self, tiny: Tiny, tmp_path: Path) -> None:
        template = tmp_path / "template.jinja"
        template.write_text((tiny("idefics3") / "chat_template.jinja").read_text())
        backend = load("idefics3", tiny("idefics3"), chat_template=str(template))
        self.become(backend, tiny("idefics3"), chat_template=str(template))
        template.write_text("Be brief.")
        with pytest.raises(CannotReuse, match="chat template"):
            self.become(backend, tiny("idefics3"), chat_template=str(template))

    def test_weights_that_were_drawn_at_random_are_refused(self, tiny: Tiny) -> None:
        backend = load("idefics3", tiny("idefics3"), strict_weights=False)
        with pytest.raises(CannotReuse, match="random"):
            self.become(backend, tiny("idefics3"), strict_weights=False)

    def test_a_backend_of_another_kind_is_refused(self, tiny: Tiny) -> None:
        with pytest.raises(CannotReuse, match="one evaluation only"):
            registry.reuse(ScriptedBackend(str), "idefics3", {"pretrained": str(tiny("idefics3"))}, LoadSettings("cpu"))


class TestPreparedAhead:
    """``registry.prepare``: the same backend as without it, whatever has happened to the checkpoint in between."""

    def prepare_then_create(self, folder: Path, between: Callable[[], object] = lambda: None) -> HuggingFaceBackend:
        arguments = {"pretrained": str(folder), **small_args("idefics3")}
        loader = registry.prepare("idefics3", arguments, LoadSettings("cpu"))
        assert loader is not None
        between()
        backend = registry.load("idefics3", arguments, LoadSettings("cpu"), loader)
        assert isinstance(backend, HuggingFaceBackend)
        return backend

    @pytest.mark.parametrize("early", [True, False])
    def test_an_unchanged_checkpoint(self, tiny: Tiny, early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backend_module, "may_load_early", lambda options, folder: early)
        assert_same(self.prepare_then_create(tiny("idefics3")), load("idefics3", tiny("idefics3")))

    @pytest.mark.parametrize("early", [True, False])
    @pytest.mark.parametrize("change", ["weights", "processor", "setting"])
    def test_a_checkpoint_that_is_written_anew(
        self, tiny: Tiny, tmp_path: Path, early: bool, change: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "may_load_early", lambda options, folder: early)
        folder = shutil.copytree(tiny("idefics3"), tmp_path / "checkpoint")

        def rewrite() -> None:
            if change == "weights":
                build_checkpoint("idefics3", folder, seed=1)
            elif change == "processor":
                template = folder / "chat_template.jinja"
                template.write_text("Be brief. " + template.read_text())
            else:
                config = json.loads((folder / "config.json").read_text())
                config["text_config"]["rms_norm_eps"] = 0.5
                (folder / "config.json").write_text(json.dumps(config))

        backend = self.prepare_then_create(folder, rewrite)
        fresh = load("idefics3", folder)
        assert_same(backend, fresh)
        assert backend.model.config.text_config.rms_norm_eps == fresh.model.config.text_config.rms_norm_eps
        assert backend.processor.chat_template == fresh.processor.chat_template

    def test_a_model_that_is_large_for_the_machine_is_not_loaded_early(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = load("idefics3", tiny("idefics3")).options
        assert ahead.may_load_early(options, tiny("idefics3"))
        assert not ahead.may_load_early(dataclasses.replace(options, device="cuda:0"), tiny("idefics3"))
        monkeypatch.setattr(ahead, "free_bytes_of_machine", lambda: 1_000_000)
        assert not ahead.may_load_early(options, tiny("idefics3"))


def test_while_there_is_no_device_torch_touches_none() -> None:
    with forbid_accelerators("not now"), pytest.raises(RuntimeError, match="not now"):
        torch.zeros(1, device="cuda")
    assert torch.cuda._lazy_init.__module__ == "torch.cuda"
