"""The Hugging Face backend on tiny checkpoints of real families."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.huggingface import backend as backend_module
from lmms_eval_grpc.engine.models.huggingface import planning
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, GenerationResponse
from tests.support.checkpoints import SEEING, small_args

Tiny = Callable[[str], Path]
GREEDY = {"max_new_tokens": 6}


def load(family: str, folder: Path, *, batch_size: int | None = None, **model_args: Any) -> HuggingFaceBackend:
    arguments = {"pretrained": str(folder), **small_args(family), **model_args}
    backend = registry.create(family, arguments, device="cpu", batch_size=batch_size)
    assert isinstance(backend, HuggingFaceBackend)
    return backend


def ask(*images: Any, text: str = "What is this?", **generation: Any) -> GenerationRequest:
    content = [*({"type": "image", "url": image} for image in images), {"type": "text", "text": text}]
    return GenerationRequest([{"role": "user", "content": content}], {**GREEDY, **generation})


def answers(backend: HuggingFaceBackend, requests: Sequence[GenerationRequest]) -> list[GenerationResponse]:
    """Responses in the order of the requests, after checking that each came exactly once."""
    found = [answer for batch in backend.generate(requests) for answer in batch]
    assert sorted(answer.index for answer in found) == list(range(len(requests)))
    return [answer.response for answer in sorted(found, key=lambda answer: answer.index)]


def count_batches(backend: HuggingFaceBackend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that reach the model, growing as they do."""
    sizes: list[int] = []
    generate = backend.model.generate

    def counted(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(backend.model, "generate", counted)
    return sizes


@pytest.mark.parametrize("family", SEEING)
def test_texts_do_not_depend_on_the_batch_size(family: str, tiny: Tiny, digit_images: list[bytes]) -> None:
    if family == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words")
    requests = [ask(image, text="What" + " is" * (index % 5)) for index, image in enumerate(digit_images[:9])]
    requests += [ask(text="No picture"), ask(digit_images[0], digit_images[1], text="Two")]
    alone = answers(load(family, tiny(family), batch_size=1), requests)
    assert all(response.error is None for response in alone)
    assert all(response.input_tokens > 0 and 0 < response.output_tokens <= 6 for response in alone)
    for batch_size in (7, 32, None):
        assert answers(load(family, tiny(family), batch_size=batch_size), requests) == alone


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "internvl_hf", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_images_of_many_shapes_do_not_depend_on_the_batch(family: str, tiny: Tiny) -> None:
    """Tiles, grids and patches differ from image to image, and with them the padding of pixels and positions."""
    shapes = [(32, 32), (64, 32), (32, 70), (150, 40), (20, 90), (97, 61), (12, 12), (64, 64), (33, 130)]
    noise = np.random.RandomState(0)
    images = [Image.fromarray(noise.randint(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    requests = [ask(image, text="What" + " is" * (index * 7 % 5)) for index, image in enumerate(images)]
    requests += [ask(images[index], images[index + 3], text="Both") for index in range(4)]
    requests += [ask(text="None"), ask(text="None of them " * 6)]

    def load_tiling(batch_size: int | None) -> HuggingFaceBackend:
        backend = load(family, tiny(family), batch_size=batch_size, dtype="float32")
        image_processor = backend.processor.image_processor
        if family == "idefics3":
            image_processor.do_image_splitting = True
            image_processor.size = type(image_processor.size)(longest_edge=48)
        elif family == "internvl_hf":
            image_processor.crop_to_patches, image_processor.min_patches, image_processor.max_patches = True, 1, 4
        return backend

    alone = answers(load_tiling(1), requests)
    assert all(response.error is None for response in alone)
    assert len({response.input_tokens for response in alone[:9]}) > 2 or family == "gemma3"
    for batch_size in (7, None):
        assert answers(load_tiling(batch_size), requests) == alone


@pytest.mark.parametrize("family", SEEING)
def test_several_preparing_threads_change_nothing(
    family: str, tiny: Tiny, digit_images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(image, text="a" * (index % 9), max_new_tokens=2) for index, image in enumerate(digit_images[:60])]
    backend = load(family, tiny(family), batch_size=2)
    expected = answers(backend, requests)
    assert all(response.error is None for response in expected)
    monkeypatch.setattr(backend_module, "count_threads", lambda: 6)
    assert answers(backend, requests) == expected


def test_batches_are_sorted_longest_first(
    tiny: Tiny, digit_images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load("idefics3", tiny("idefics3"), batch_size=2)
    lengths = [1, 30, 2, 20, 3, 10]
    requests = [ask(digit_images[0], text="x " * length) for length in lengths]
    order = [[lengths[answer.index] for answer in batch] for batch in backend.generate(requests)]
    assert order == [[30, 20], [10, 3], [2, 1]]


def test_different_generation_arguments_never_share_a_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load("idefics3", tiny("idefics3"), batch_size=8)
    sizes = count_batches(backend, monkeypatch)
    responses = answers(backend, [ask(text="a", max_new_tokens=1 + index % 2) for index in range(6)])
    assert sizes == [3, 3]
    assert {response.output_tokens for response in responses[::2]} == {1}
    assert max(response.output_tokens for response in responses[1::2]) <= 2


def test_stop_strings_end_the_generation_and_are_cut_off(tiny: Tiny, digit_images: list[bytes]) -> None:
    backend = load("llava_hf", tiny("llava_hf"), batch_size=4)
    images = digit_images[:4]
    free = answers(backend, [ask(image, max_new_tokens=12) for image in images])
    stop = free[0].text[2:4]
    stopped = answers(backend, [ask(image, max_new_tokens=12, until=[stop, "\x00"]) for image in images])
    for without, with_stop in zip(free, stopped, strict=True):
        assert with_stop.text == without.text.partition(stop)[0]
        if stop in without.text:
            assert with_stop.output_tokens < without.output_tokens
    assert len(stopped[0].text) == 2
    assert free[0].output_tokens == 12


def test_a_stop_string_may_be_a_special_token(tiny: Tiny) -> None:
    backend = load("llava_hf", tiny("llava_hf"))
    special = backend.processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    head = torch.nn.Linear(32, backend.model.lm_head.out_features)
    head.weight.data.zero_()
    head.bias.data.fill_(-1.0)
    head.bias.data[special] = 0.0  # every token is this one
    backend.model.lm_head = head
    assert answers(backend, [ask(text="a", until=["x"])])[0].output_tokens == 6
    assert answers(backend, [ask(text="a", until=["<|im_start|>"])])[0].output_tokens == 1


def test_a_corrupt_image_fails_alone(tiny: Tiny, digit_images: list[bytes]) -> None:
    backend = load("idefics3", tiny("idefics3"), batch_size=8)
    sound = answers(backend, [ask(image) for image in digit_images[:3]])
    broken = digit_images[1][:60]
    responses = answers(backend, [ask(digit_images[0]), ask(broken), ask(digit_images[1]), ask(digit_images[2])])
    assert "cannot be decoded" in str(responses[1].error)
    assert [responses[0], *responses[2:]] == sound


def test_a_prompt_that_the_processor_refuses_fails_alone(tiny: Tiny, digit_images: list[bytes]) -> None:
    backend = load("idefics3", tiny("idefics3"), batch_size=8)
    responses = answers(
        backend, [ask(digit_images[0]), ask(digit_images[1], text="an <image> too many"), ask(digit_images[2])]
    )
    assert [response.error is None for response in responses] == [True, False, True]


def test_an_exception_while_fetching_a_request_fails_that_request_alone(tiny: Tiny, digit_images: list[bytes]) -> None:
    class Requests(list[GenerationRequest]):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    backend = load("idefics3", tiny("idefics3"), batch_size=2)
    responses = answers(backend, Requests(ask(image) for image in digit_images[:4]))
    assert "the disk is gone" in str(responses[1].error)
    assert [response.error is None for response in responses] == [True, False, True, True]


def out_of_memory_above(backend: HuggingFaceBackend, limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes the model run out of memory for batches of more than ``limit``; returns the sizes tried, as they grow."""
    tried = count_batches(backend, monkeypatch)
    generate = backend.model.generate

    def limited(**inputs: Any) -> Any:
        output = generate(**inputs)
        if len(inputs["input_ids"]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return output

    monkeypatch.setattr(backend.model, "generate", limited)
    return tried


@pytest.mark.parametrize("batch_size", [None, 16])
def test_batches_are_halved_when_memory_runs_out_and_stay_so(
    batch_size: int | None, tiny: Tiny, digit_images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(image, max_new_tokens=2) for image in digit_images[:100]]
    expected = answers(load("idefics3", tiny("idefics3"), batch_size=1), requests)
    backend = load("idefics3", tiny("idefics3"), batch_size=batch_size)
    tried = out_of_memory_above(backend, 5, monkeypatch)
    assert answers(backend, requests) == expected
    assert max(tried) == (batch_size or 100)
    # Not even what was prepared before the failure is tried again in a size known to be too large.
    assert max(tried[tried.index(4) :]) == 4
    tried.clear()
    assert answers(backend, requests) == expected
    assert max(tried) <= 4


def test_a_request_too_large_even_alone_fails_alone(
    tiny: Tiny, digit_images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load("idefics3", tiny("idefics3"), batch_size=2)
    generate = backend.model.generate

    def limited(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(backend.model, "generate", limited)
    responses = answers(backend, [ask(text="short"), ask(text="x y " * 50), ask(text="brief")])
    assert [response.error is None for response in responses] == [True, False, True]
    assert "out of memory" in str(responses[1].error)


def test_max_batch_size_is_a_ceiling(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = registry.create("idefics3", {"pretrained": str(tiny("idefics3"))}, device="cpu", max_batch_size=8)
    assert isinstance(backend, HuggingFaceBackend)
    sizes = count_batches(backend, monkeypatch)
    answers(backend, [ask(text="a", max_new_tokens=1)] * 20)
    assert sizes == [8, 8, 4]


def test_requests_are_fetched_in_bounded_windows(
    tiny: Tiny, digit_images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "WINDOW_PIXELS", 64 * 8)  # eight digits
    fetched: list[int] = []

    class Requests(list[GenerationRequest]):
        def __getitem__(self, index: Any) -> Any:
            fetched.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(backend_module, "count_threads", lambda: 2)
    backend = load("idefics3", tiny("idefics3"), batch_size=4)
    batches = backend.generate(Requests(ask(image, max_new_tokens=1) for image in digit_images[:200]))
    answered = 0
    for batch in batches:
        answered += len(batch)
        # One window being cut, the batches and groups of requests ahead, one batch in the model.
        assert len(fetched) <= answered + 8 + 4 * 4 + 4 * planning.TOGETHER
    assert answered == 200
    assert sorted(fetched) == list(range(200))


def test_closing_the_iterator_leaves_no_thread(tiny: Tiny, digit_images: list[bytes]) -> None:
    backend = load("idefics3", tiny("idefics3"), batch_size=2)
    before = threading.active_count()
    batches = backend.generate([ask(image) for image in digit_images[:50]])
    assert isinstance(batches, Iterator)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_the_system_prompt_and_the_default_length_take_effect(tiny: Tiny, digit_images: list[bytes]) -> None:
    folder = tiny("llava_hf")
    request = GenerationRequest(ask(digit_images[0]).messages, {})
    plain = answers(load("llava_hf", folder, max_new_tokens=3), [request])[0]
    prompted = answers(load("llava_hf", folder, max_new_tokens=3, system_prompt="You are terse."), [request])[0]
    assert plain.output_tokens == 3
    assert prompted.input_tokens > plain.input_tokens


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_pixel_bounds_take_effect_in_every_family(family: str, tiny: Tiny) -> None:
    request = ask(Image.new("RGB", (160, 40)))
    plain = answers(load(family, tiny(family), max_pixels=112 * 112), [request])[0]
    small = answers(load(family, tiny(family), max_pixels=56 * 56, min_pixels=28 * 28), [request])[0]
    assert plain.error is None
    assert small.error is None
    if family == "qwen2_5_vl":
        assert small.input_tokens < plain.input_tokens
    else:  # one tile more or less is decided by the shape, which stays the same
        assert small.input_tokens <= plain.input_tokens


@pytest.mark.parametrize("model_args", [{"dtype": "bfloat16"}, {"attn_implementation": "eager"}, {"device_map": "cpu"}])
def test_loading_arguments_take_effect(model_args: dict[str, Any], tiny: Tiny) -> None:
    backend = load("idefics3", tiny("idefics3"), **model_args)
    found = {
        "dtype": str(backend.model.dtype).removeprefix("torch."),
        "attn_implementation": backend.model.config._attn_implementation,
        "device_map": backend.model.device.type,
    }
    assert found | model_args == found
    assert answers(backend, [ask(text="a")])[0].error is None


@pytest.mark.parametrize("family", ["idefics3", "qwen2_5_vl", "llava_hf"])
def test_prompts_are_what_the_template_makes_of_each_conversation(family: str, tiny: Tiny) -> None:
    backend = load(family, tiny(family), system_prompt="Be brief.")
    pictures = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in range(3)]
    texts = [
        "What?",
        "What? ",
        "'}, {'type': 'image'}, {'",
        "{{ 1 + 1 }}{% if %}",
        "<image>",
        "<end_of_utterance>\\n",
        "",
    ]
    texts += [f"number {number}" for number in range(70)]  # more than are kept
    for text in texts * 2:
        for count in range(3):
            request = ask(*pictures[:count], text=text)
            said = [*[{"type": "image"}] * count, {"type": "text", "text": text}]
            system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
            wanted = backend.processor.apply_chat_template(
                [system, {"role": "user", "content": said}], add_generation_prompt=True, tokenize=False
            )
            prepared = backend._prepare(0, request)
            assert prepared.prompt == wanted
            assert len(prepared.media.images) == count


def test_each_run_renders_its_prompts_anew(tiny: Tiny) -> None:
    backend = load("idefics3", tiny("idefics3"))
    asked = ask(text="Which day is it?")
    before = answers(backend, [asked])[0].input_tokens
    backend.processor.chat_template += "It is Monday. "
    assert answers(backend, [asked])[0].input_tokens > before


def test_use_cache_off_gives_the_same_text(tiny: Tiny, digit_images: list[bytes]) -> None:
    requests = [ask(image) for image in digit_images[:2]]
    cached = answers(load("idefics3", tiny("idefics3")), requests)
    assert answers(load("idefics3", tiny("idefics3"), use_cache=False), requests) == cached


def test_beams_and_sampling_are_passed_on(tiny: Tiny, digit_images: list[bytes]) -> None:
    backend = load("idefics3", tiny("idefics3"), batch_size=4)
    requests = [ask(image, num_beams=2, until=["\x00"]) for image in digit_images[:3]]
    assert all(response.error is None for response in answers(backend, requests))
    texts = {response.text for response in answers(backend, [ask(digit_images[0], temperature=5.0)] * 5)}
    assert len(texts) > 1


def test_sampled_answers_depend_on_the_seed_and_not_on_the_batch(tiny: Tiny, digit_images: list[bytes]) -> None:
    sampled = {"temperature": 0.9, "top_p": 0.95, "top_k": 200, "max_new_tokens": 8}
    requests = [ask(image, text="a" * (index % 3), **sampled) for index, image in enumerate(digit_images[:16])]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        alone = answers(load("idefics3", tiny("idefics3"), batch_size=1), requests)
        for batch_size in (7, None):
            torch.rand(3)  # what else is drawn in the process does not matter
            assert answers(load("idefics3", tiny("idefics3"), batch_size=batch_size), requests) == alone
        torch.manual_seed(8)
        assert answers(load("idefics3", tiny("idefics3")), requests) != alone
    assert len({response.text for response in alone}) > 8


def test_the_identity_names_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("idefics3"), tmp_path / "copy")
    first = load("idefics3", tiny("idefics3")).identity
    assert load("idefics3", folder).identity["weights_digest"] == first["weights_digest"]
    assert first["dtype"] == "float32"
    assert first["image_backend"] == "pil"
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load("idefics3", folder).identity["weights_digest"] != first["weights_digest"]
    json.dumps(first)


class TestRefusedCheckpoints:
    """Every way of not being a checkpoint ends in MODEL_LOAD_FAILED and a sentence."""

    def refuse(self, folder: Path, match: str, family: str = "huggingface", **model_args: Any) -> None:
        with pytest.raises(EvaluationError, match=match) as caught:
            load(family, folder, **model_args)
        assert caught.value.reason == "MODEL_LOAD_FAILED"
        assert str(folder) in caught.value.message

    @pytest.fixture
    def folder(self, tiny: Tiny, tmp_path: Path) -> Path:
        return shutil.copytree(tiny("idefics3"), tmp_path / "checkpoint")

    def edit_config(self, folder: Path, **changes: Any) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def test_no_folder(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "nowhere", "no such folder")

    def test_no_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        self.refuse(folder, r"no config\.json")

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        self.refuse(folder, "model.safetensors")

    def test_half_written_weights(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refuse(folder, "still being written")

    def test_missing_and_unexpected_weights(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        removed = next(name for name in weights if "q_proj" in name)
        weights["left.over"] = weights.pop(removed)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.refuse(folder, r"lacks weights \(.*q_proj.*belong nowhere \(left\.over\)")
        assert load("huggingface", folder, strict_weights=False).model is not None

    def test_weights_of_another_size(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.edit_config(folder, text_config=config["text_config"] | {"intermediate_size": 96})
        self.refuse(folder, r"do not fit its config\.json: .*mlp.*and 1 more")

    def test_a_model_that_does_not_generate(self, folder: Path) -> None:
        self.edit_config(folder, model_type="vit")
        self.refuse(folder, "'vit' is no multimodal or language model")

    def test_a_model_that_sees_by_the_name_of_those_that_read(self, folder: Path) -> None:
        self.refuse(folder, "'idefics3' reads more than text", family="huggingface_text")

    def test_an_unknown_type(self, folder: Path) -> None:
        self.edit_config(folder, model_type="not_a_model")
        self.refuse(folder, "not_a_model")

    def test_another_family(self, folder: Path) -> None:
        self.refuse(folder, "its type is 'idefics3'.*'huggingface'", family="qwen2_5_vl")

    def test_no_chat_template(self, folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        self.refuse(folder, "no chat template")

    def test_no_processor(self, folder: Path) -> None:
        for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        self.refuse(folder, "its processor cannot be loaded")


REMOTE_CODE = """
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

class OwnConfig(Idefics3Config):
    model_type = "own_vlm"

class OwnModel(Idefics3ForConditionalGeneration):
    config_class = OwnConfig
"""


def test_a_checkpoints_own_code_runs_only_when_trusted(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("idefics3"), tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "own_code.OwnConfig", "AutoModelForImageTextToText": "own_code.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own_vlm", "auto_map": auto_map}))
    (folder / "own_code.py").write_text(REMOTE_CODE)
    with pytest.raises(EvaluationError, match="trust_remote_code") as caught:
        load("huggingface", folder)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    backend = load("huggingface", folder, trust_remote_code=True)
    assert type(backend.model).__name__ == "OwnModel"
    assert answers(backend, [ask(text="a")])[0].error is None


def test_a_device_that_is_not_there_is_refused(tiny: Tiny) -> None:
    with pytest.raises(EvaluationError, match="cuda:93") as caught:
        registry.create("idefics3", {"pretrained": str(tiny("idefics3"))}, device="cuda:93")
    assert caught.value.reason == "DEVICE_UNAVAILABLE"
