"""Videos, recordings and text through the Hugging Face backend, and the arguments of the families."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, GenerationResponse
from tests.support.checkpoints import FAMILIES, SEEING, small_args
from tests.support.media_files import sine, write_video

Tiny = Callable[[str], Path]
HEARING = ("qwen2_5_omni", "qwen2_audio")
NATIVE_VIDEO = {"internvl_hf", "llava_onevision", "qwen2_5_omni", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos and two recordings: a.mp4 (40 frames), b.mp4 (24), short.wav (0.5 s), long.flac (2.5 s)."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4", 40)
    write_video(folder / "b.mp4", 24)
    soundfile.write(folder / "short.wav", sine(440, 0.5, 8000), 8000)
    soundfile.write(folder / "long.flac", sine(880, 2.5, 16000), 16000)
    return folder


def load(family: str, folder: Path, *, batch_size: int | None = None, **model_args: Any) -> HuggingFaceBackend:
    arguments = {"pretrained": str(folder), **small_args(family), **model_args}
    backend = registry.create(family, arguments, device="cpu", batch_size=batch_size)
    assert isinstance(backend, HuggingFaceBackend)
    return backend


def ask(*media: tuple[str, Any], text: str = "What is this?", **more: Any) -> GenerationRequest:
    content = [*({"type": kind, "url": source, **more} for kind, source in media), {"type": "text", "text": text}]
    return GenerationRequest([{"role": "user", "content": content}], {"max_new_tokens": 5})


def answers(backend: HuggingFaceBackend, requests: Sequence[GenerationRequest]) -> list[GenerationResponse]:
    found = [answer for batch in backend.generate(requests) for answer in batch]
    return [answer.response for answer in sorted(found, key=lambda answer: answer.index)]


def count_tokens(backend: HuggingFaceBackend, request: GenerationRequest) -> int:
    (response,) = answers(backend, [request])
    assert response.error is None
    return response.input_tokens


def picture(width: int = 24, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("family", SEEING)
def test_answers_about_videos_do_not_depend_on_the_batch(family: str, tiny: Tiny, files: Path) -> None:
    if family == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words")
    requests = [
        ask(("video", files / "a.mp4")),
        ask(("video", files / "b.mp4"), text="And" + " this" * 5),
        ask(("video", str(files / "b.mp4")), ("image", picture())),
        ask(("video", [picture(), picture()])),  # given as frames, and fewer than asked for
        ask(("video", files / "a.mp4"), ("video", files / "b.mp4")),
        ask(("image", picture())),
        ask(),
    ]
    alone = answers(load(family, tiny(family), batch_size=1, max_num_frames=4), requests)
    assert [response.error for response in alone] == [None] * len(requests)
    backend = load(family, tiny(family), max_num_frames=4)
    assert answers(backend, requests) == alone
    assert alone[0].input_tokens > alone[6].input_tokens
    assert backend.identity["video_backend"] == ("torch" if family in NATIVE_VIDEO else "images")
    assert backend.capabilities.modalities >= {"text", "image", "video"}
    json.dumps(backend.identity)


@pytest.mark.parametrize("family", HEARING)
def test_answers_about_recordings_do_not_depend_on_the_batch(family: str, tiny: Tiny, files: Path) -> None:
    short, long = ("audio", files / "short.wav"), ("audio", str(files / "long.flac"))
    requests = [ask(short), ask(long), ask(short, short), ask(long, short, text="Which is longer?"), ask()]
    alone = answers(load(family, tiny(family), batch_size=1), requests)
    assert [response.error for response in alone] == [None] * len(requests)
    assert answers(load(family, tiny(family)), requests) == alone
    none, one = alone[4].input_tokens, alone[0].input_tokens - alone[4].input_tokens
    assert one > 0
    assert alone[2].input_tokens - none == 2 * one


def test_recordings_longer_than_the_model_hears_become_several(tiny: Tiny, files: Path) -> None:
    backend = load("qwen2_audio", tiny("qwen2_audio"))  # hears one second
    parts = [sine(880, 2.5, 16000)[first : first + 16000] for first in (0, 16000, 32000)]
    apart = ask(*(("audio", {"array": part, "sampling_rate": 16000}) for part in parts))
    whole = ask(("audio", {"array": sine(880, 2.5, 16000), "sampling_rate": 16000}))
    assert answers(backend, [whole]) == answers(backend, [apart])


def test_a_part_of_a_recording_is_a_recording_of_its_own(tiny: Tiny, files: Path, tmp_path: Path) -> None:
    backend = load("qwen2_audio", tiny("qwen2_audio"))
    prepared = backend._prepare(0, ask(("audio", files / "long.flac"), start_time=0.5, end_time=1.25))
    (sound,) = prepared.media.sounds
    assert len(sound) == 12_000
    whole, _ = soundfile.read(files / "long.flac", dtype="float32")
    assert np.array_equal(sound, whole[8000:20_000])


def test_missing_and_broken_media_fail_alone_and_are_named(tiny: Tiny, files: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((files / "a.mp4").read_bytes()[:200])
    backend = load("qwen2_5_omni", tiny("qwen2_5_omni"), max_num_frames=4)
    requests = [
        ask(("video", files / "a.mp4")),
        ask(("video", broken)),
        ask(("video", tmp_path / "no.mp4")),
        ask(("audio", tmp_path / "no.wav")),
        ask(("audio", files / "short.wav")),
    ]
    errors = [response.error for response in answers(backend, requests)]
    assert errors[0] is None
    assert errors[4] is None
    assert str(broken) in str(errors[1])
    assert f"{tmp_path / 'no.mp4'}" in str(errors[2])
    assert f"{tmp_path / 'no.wav'}" in str(errors[3])


@pytest.mark.parametrize(
    ("family", "kind", "reads"),
    [
        ("huggingface_text", "image", "reads text only"),
        ("huggingface_text", "video", "reads text only"),
        ("qwen2_audio", "image", "reads audio, text only"),
        ("gemma3", "audio", "reads image, text, video only"),
    ],
)
def test_a_model_says_of_each_sample_that_it_cannot_read(family: str, kind: str, reads: str, tiny: Tiny) -> None:
    wrong, right = answers(load(family, tiny(family)), [ask((kind, picture())), ask()])
    assert kind in str(wrong.error)
    assert reads in str(wrong.error)
    assert right.error is None


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_catalog_says_what_a_family_reads(family: str, tiny: Tiny) -> None:
    entry = registry.resolve(family)
    assert entry is not None
    if entry.missing_packages():
        pytest.skip(f"needs {entry.missing_packages()}")
    backend = load(family, tiny(family))
    assert backend.capabilities.modalities == set(entry.modalities)
    generic = load("huggingface", tiny(family))
    assert type(generic.model) is type(backend.model)
    assert generic.capabilities == backend.capabilities


@pytest.mark.parametrize("family", ["gemma3", "llava_onevision", "qwen2_5_vl"])
def test_the_number_of_frames_follows_the_arguments(family: str, tiny: Tiny, files: Path) -> None:
    folder, request = tiny(family), ask(("video", files / "a.mp4"))  # 40 frames in 1.6 seconds
    tokens = {number: count_tokens(load(family, folder, max_num_frames=number), request) for number in (2, 4, 8)}
    assert 2 * (tokens[4] - tokens[2]) == tokens[8] - tokens[4] > 0
    assert count_tokens(load(family, folder, fps=2.5), request) == tokens[4]
    assert count_tokens(load(family, folder, fps=20, max_num_frames=2), request) == tokens[2]
    default = count_tokens(load(family, folder), request)
    assert default == tokens[2] + 15 * (tokens[4] - tokens[2])  # 32


def test_a_part_of_a_video_is_a_video_of_its_own(tiny: Tiny, files: Path) -> None:
    backend = load("qwen3_vl", tiny("qwen3_vl"), max_num_frames=4)
    (whole,) = answers(backend, [ask(("video", files / "a.mp4"))])
    (part,) = answers(backend, [ask(("video", files / "a.mp4"), start_time=0.4, end_time=0.8)])
    assert whole.error is None
    assert part.error is None
    prepared = backend._prepare(0, ask(("video", files / "a.mp4"), start_time=0.4, end_time=0.8))
    (clip,) = prepared.media.videos
    assert (clip.indices[0], clip.indices[-1], clip.total) == (10, 20, 10)
    assert clip.sampled_fps == pytest.approx(10.0)


def test_timestamps_stand_before_the_frames_of_qwen3_vl(tiny: Tiny, files: Path) -> None:
    backend = load("qwen3_vl", tiny("qwen3_vl"), max_num_frames=4)
    prepared = backend._prepare(0, ask(("video", files / "a.mp4")))
    text = backend.processor.tokenizer.decode(backend._encode([prepared])["input_ids"][0])
    assert "<0.3 seconds><|vision_start|><|video_pad|>" in text  # frames 0 and 13 of 25 a second
    assert "<1.3 seconds><|vision_start|><|video_pad|>" in text


def test_bounds_of_pixels_act_on_frames(tiny: Tiny, files: Path) -> None:
    folder, request = tiny("qwen3_vl"), ask(("video", files / "a.mp4"))
    wide = count_tokens(load("qwen3_vl", folder, max_num_frames=4, max_pixels=64 * 256), request)
    assert count_tokens(load("qwen3_vl", folder, max_num_frames=4, max_pixels=64 * 64), request) < wide
    shared = load("qwen3_vl", folder, max_num_frames=4, min_pixels=1024, max_pixels=64 * 256, total_pixels=4096)
    assert count_tokens(shared, request) < wide


@pytest.mark.parametrize(
    ("family", "given", "meant"),
    [
        ("llava_hf", {"max_frames_num": 3}, {"max_num_frames": 3}),
        ("internvl_hf", {"num_frames": 3}, {"max_num_frames": 3}),
        ("gemma3", {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ("qwen2_vl", {"use_flash_attention_2": True}, {"attn_implementation": "flash_attention_2"}),
    ],
)
def test_other_names_of_arguments_mean_the_same(
    family: str, given: dict[str, Any], meant: dict[str, Any], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[Any] = []
    monkeypatch.setattr(HuggingFaceBackend, "load", options.append)
    for model_args in (given, meant):
        registry.create(family, {"pretrained": "x", **model_args}, device="cpu")
    assert options[0] == options[1]
    assert {name: getattr(options[0], name) for name in meant} == meant


def test_both_names_of_one_argument_are_refused() -> None:
    entry = registry.resolve("gemma3")
    assert entry is not None
    (problem,) = entry.check_args({"pretrained": "x", "dtype": "float32", "torch_dtype": "float32"})
    assert "mean the same" in problem.description


def test_arguments_that_do_not_act_on_a_family_are_not_there() -> None:
    for family, wrong in {
        "huggingface_text": "max_pixels",
        "qwen2_audio": "max_num_frames",
        "gemma3": "enable_thinking",
        "llava_hf": "max_patches",
        "qwen2_5_vl": "total_pixels",
    }.items():
        entry = registry.resolve(family)
        assert entry is not None
        (problem,) = entry.check_args({"pretrained": "x", wrong: 1})
        assert "has no argument" in problem.description


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("max_num_frames", 0), ("max_num_frames", -1), ("fps", -2.0)],
        *[("max_pixels", 0), ("min_pixels", -1), ("max_new_tokens", 0)],
    ],
)
def test_values_that_cannot_be_meant_are_refused(argument: str, value: float, tiny: Tiny) -> None:
    with pytest.raises(EvaluationError, match=argument) as caught:
        load("gemma3", tiny("gemma3"), **{argument: value})
    assert caught.value.reason == "INVALID_MODEL_ARGS"


def test_prompts_may_be_text_or_files_and_take_effect(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Think step by step.\n")
    folder = tiny("huggingface_text")

    def prompt(**model_args: Any) -> str:
        return load("huggingface_text", folder, **model_args)._prepare(0, ask(text="Why?")).prompt

    assert prompt(reasoning_prompt=r"\nThink.") == ("<|im_start|>user\nWhy?\nThink.<|im_end|>\n<|im_start|>assistant\n")
    assert "user\nWhy?Think step by step.\n<" in prompt(reasoning_prompt=str(tmp_path / "prompt.txt"))
    assert prompt(system_prompt="Be brief.").startswith("<|im_start|>system\nBe brief.<|im_end|>")
    template = "{{ messages[-1]['content'] }} Answer:"
    assert prompt(chat_template=template) == "Why? Answer:"
    (tmp_path / "template.jinja").write_text(template)
    assert prompt(chat_template=str(tmp_path / "template.jinja")) == "Why? Answer:"


def test_thinking_is_the_templates_to_use_and_is_cut_off(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    template = (
        "{% for message in messages %}{% for item in message['content'] %}{{ item['text'] }}{% endfor %}{% endfor %}"
        "{% if enable_thinking %}<think>{% endif %}"
    )
    folder = tiny("qwen3_vl")
    plain = load("qwen3_vl", folder, chat_template=template, system_prompt=None)
    thinking = load("qwen3_vl", folder, chat_template=template, system_prompt=None, enable_thinking=True)
    assert plain._prepare(0, ask(text="Why?")).prompt == "Why?"
    assert thinking._prepare(0, ask(text="Why?")).prompt == "Why?<think>"
    for backend, expected in ((plain, "a</think> b"), (thinking, "b")):
        monkeypatch.setattr(
            backend.processor.tokenizer, "batch_decode", lambda rows, **_: ["a</think> b"] * len(rows), raising=False
        )
        assert answers(backend, [ask(text="Why?")])[0].text == expected


def test_tiles_follow_the_arguments(tiny: Tiny) -> None:
    request = ask(("image", picture(128, 32)))
    tokens = []
    for most in (1, 4):
        backend = load("internvl_hf", tiny("internvl_hf"), max_patches=most)
        backend.processor.image_processor.crop_to_patches = True  # as published checkpoints have it
        tokens.append(count_tokens(backend, request))
    assert tokens[0] < tokens[1]
    whole, split = (load("idefics3", tiny("idefics3"), do_image_splitting=value) for value in (False, True))
    for backend in (whole, split):
        backend.processor.image_processor.size = {"longest_edge": 64}
    assert count_tokens(whole, request) < count_tokens(split, request)


def test_a_setting_that_the_image_processor_lacks_is_refused(tiny: Tiny) -> None:
    from lmms_eval_grpc.engine.models.huggingface.processor import set_image_options

    processor = load("gemma3", tiny("gemma3")).processor
    with pytest.raises(ValueError, match="max_tiles has no meaning"):
        set_image_options(processor, {"max_tiles": 3})
