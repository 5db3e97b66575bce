"""The backends that ship with the package, in the order in which to show them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lmms_eval_grpc.engine.models.entry import ModelArgument, ModelEntry
from lmms_eval_grpc.engine.models.huggingface.arguments import (
    FLASH_ATTENTION,
    PATCHES,
    SPLITTING,
    THINKING,
    TOTAL_PIXELS,
    arguments,
    generation_keys,
)
from lmms_eval_grpc.engine.models.managed.arguments import (
    SGLANG_ARGUMENTS,
    TRANSFORMERS_SERVE_ARGUMENTS,
    VLLM_ARGUMENTS,
)
from lmms_eval_grpc.engine.models.openai.arguments import ASYNC_OPENAI_ARGUMENTS, OPENAI_ARGUMENTS
from lmms_eval_grpc.engine.models.openai.arguments import generation_keys as openai_generation_keys

_HUGGINGFACE_LOADER = "lmms_eval_grpc.engine.models.huggingface.backend:load"
_HUGGINGFACE_PREPARER = "lmms_eval_grpc.engine.models.huggingface.backend:prepare"

_ASSISTANT = "You are a helpful assistant."
_OMNI = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
_QWEN_PIXELS: Mapping[str, Any] = {"min_pixels": 200704, "max_pixels": 1605632}
_VISUAL = ("image", "video")
_LIBRARIES = ("torch", "transformers>=5", "accelerate", "pillow")


def _family(
    name: str,
    description: str,
    *model_types: str,
    reads: tuple[str, ...] = _VISUAL,
    own: Mapping[str, ModelArgument] | None = None,
    aliases: tuple[str, ...] = (),
    requires: tuple[str, ...] = (),
    **defaults: Any,
) -> ModelEntry:
    """A family of checkpoints that the Hugging Face backend runs.

    ``reads`` is what it reads beside text, ``own`` are arguments of its own, and ``defaults`` are lmms-eval's values of
    arguments where they are not everybody's.
    """
    return ModelEntry(
        name,
        description,
        _HUGGINGFACE_LOADER,
        arguments(*reads, **defaults) | dict(own or {}),
        aliases=aliases,
        modalities=("text", *reads),
        requires=(*_LIBRARIES, *requires),
        model_types=model_types,
        generation_keys=generation_keys,
        preparer=_HUGGINGFACE_PREPARER,
    )


def _splitting(default: bool) -> dict[str, ModelArgument]:
    return {name: dataclasses.replace(argument, default=default) for name, argument in SPLITTING.items()}


def _server(name: str, arguments: Mapping[str, ModelArgument], **more: Any) -> ModelEntry:
    """A server that speaks OpenAI's API."""
    return ModelEntry(
        name,
        "Any model behind a server that speaks OpenAI's chat API.",
        "lmms_eval_grpc.engine.models.openai.backend:load",
        arguments,
        modalities=("text", "image", "video", "audio"),
        requires=("openai", "pillow"),
        several_devices="refused",
        generation_keys=openai_generation_keys,
        **more,
    )


def _managed(name: str, description: str, arguments: Mapping[str, ModelArgument], **more: Any) -> ModelEntry:
    """An inference server that the job starts and asks through OpenAI's API."""
    loader = "lmms_eval_grpc.engine.models.managed.backend:load"
    modalities = ("text", "image", "video", "audio")
    return ModelEntry(
        name,
        description,
        loader,
        arguments,
        modalities=modalities,
        several_devices="own",
        generation_keys=openai_generation_keys,
        **more,
    )


ENTRIES: tuple[ModelEntry, ...] = (
    _family(
        "huggingface",
        "Any chat model that transformers loads as a multimodal or a causal language model, with a chat template.",
        reads=("image", "video", "audio"), aliases=("hf", "hf_chat", "huggingface_chat", "hf_multimodal"),
    ),
    _family(
        "huggingface_text", "Any language model that transformers loads, with a chat template.", reads=(),
        aliases=("hf_text", "causal_lm"),
    ),
    _family(
        "gemma3", "Gemma 3 with vision.", "gemma3", system_prompt=_ASSISTANT, max_new_tokens=128,
    ),
    _family(
        "idefics2", "Idefics2.", "idefics2", own=_splitting(False), most_frames="max_frames_num", max_num_frames=16,
        max_new_tokens=1024,
    ),
    _family("idefics3", "Idefics3.", "idefics3", own=SPLITTING),
    _family(
        "internvl_hf", "InternVL 3 and later in Hugging Face's own layout.", "internvl", own=PATCHES,
        aliases=("internvl3_hf", "internvl3_5_hf"), most_frames="num_frames", max_new_tokens=1024,
    ),
    _family(
        "llama_vision", "Llama 3.2 Vision.", "mllama", aliases=("mllama",), most_frames="max_frames_num",
        max_new_tokens=1024,
    ),
    _family(
        "llava_hf", "LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision in Hugging Face's own layout.", "llava", "llava_next",
        "llava_onevision", aliases=("llava",), most_frames="max_frames_num", max_new_tokens=1024,
    ),
    _family(
        "llava_onevision", "LLaVA-OneVision in Hugging Face's own layout.", "llava_onevision",
        aliases=("llava_onevision_hf",), most_frames="max_frames_num", max_new_tokens=1024,
    ),
    _family(
        "qwen2_audio", "Qwen2-Audio.", "qwen2_audio", reads=("audio",), requires=("soundfile", "soxr"),
        max_new_tokens=256,
    ),
    _family(
        "qwen2_vl", "Qwen2-VL.", "qwen2_vl", own=FLASH_ATTENTION, aliases=("qwen2_vl_chat",), system_prompt=_ASSISTANT,
        min_pixels=3136, max_pixels=602112, max_new_tokens=128,
    ),
    _family(
        "qwen2_5_vl", "Qwen2.5-VL.", "qwen2_5_vl", aliases=("qwen2_5_vl_chat",),
        max_new_tokens=128, **_QWEN_PIXELS,
    ),
    _family(
        "qwen2_5_omni", "Qwen2.5-Omni, answering in text.", "qwen2_5_omni", "qwen2_5_omni_thinker",
        reads=("image", "video", "audio"), aliases=("qwen2_5_omni_chat",), system_prompt=_OMNI, max_num_frames=768,
    ),
    _family(
        "qwen3_vl", "Qwen3-VL.", "qwen3_vl", "qwen3_vl_moe", own={**TOTAL_PIXELS, **THINKING},
        aliases=("qwen3_vl_chat",), system_prompt=_ASSISTANT, max_num_frames=32, max_new_tokens=128, **_QWEN_PIXELS,
    ),
    _family(
        "smolvlm", "SmolVLM and SmolVLM2.", "smolvlm", own=SPLITTING, aliases=("smolvlm2",), requires=("num2words",),
    ),
    _server("openai", OPENAI_ARGUMENTS, aliases=("openai_compatible", "openai_compatible_chat")),
    _server(
        "async_openai", ASYNC_OPENAI_ARGUMENTS, aliases=("async_openai_compatible", "async_openai_compatible_chat"),
    ),
    _managed(
        "vllm", "vLLM, started for the job.", VLLM_ARGUMENTS, aliases=("vllm_chat",),
        requires=("vllm", "openai", "pillow"),
    ),
    _managed(
        "sglang", "SGLang, started for the job.", SGLANG_ARGUMENTS, aliases=("sglang_runtime",),
        requires=("sglang", "openai", "pillow"),
    ),
    _managed(
        "transformers_serve", "transformers serve, started for the job.", TRANSFORMERS_SERVE_ARGUMENTS,
        requires=("torch", "transformers>=5", "accelerate", "pillow", "fastapi", "uvicorn", "openai"),
    ),
)  # fmt: skip
