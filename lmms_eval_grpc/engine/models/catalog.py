"""The backends that ship with the package, in the order in which to show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval_grpc.engine.models.entry import REQUIRED, ModelArgument, ModelEntry
from lmms_eval_grpc.engine.models.managed.arguments import (
    SGLANG_ARGUMENTS,
    TRANSFORMERS_SERVE_ARGUMENTS,
    VLLM_ARGUMENTS,
)
from lmms_eval_grpc.engine.models.openai.arguments import ASYNC_OPENAI_ARGUMENTS, OPENAI_ARGUMENTS

DTYPES = ("auto", "bfloat16", "float16", "float32")

HUGGINGFACE_ARGUMENTS: Mapping[str, ModelArgument] = {
    "pretrained": ModelArgument(str, REQUIRED, "Folder of a checkpoint, or its id on the Hugging Face Hub."),
    "revision": ModelArgument((str, type(None)), None, "Branch, tag or commit of a Hub checkpoint."),
    "dtype": ModelArgument(str, "auto", "Number format of the weights; auto: as saved.", choices=DTYPES),
    "device_map": ModelArgument(
        (str, dict, type(None)),
        None,
        "How to spread the model over devices, e.g. auto; unset: all on the job's device.",
    ),
    "attn_implementation": ModelArgument(
        (str, type(None)),
        None,
        "Attention kernels, e.g. sdpa, eager, flash_attention_2; unset: the model's own choice.",
    ),
    "min_pixels": ModelArgument(
        (int, type(None)), None, "Images with fewer pixels than this are enlarged to it, keeping their shape."
    ),
    "max_pixels": ModelArgument(
        (int, type(None)), None, "Images with more pixels than this are scaled down to it, keeping their shape."
    ),
    "system_prompt": ModelArgument(
        (str, type(None)),
        None,
        "System message for conversations that bring none; unset: whatever the chat template has.",
    ),
    "max_new_tokens": ModelArgument(int, 4096, "Longest answer, in tokens, for tasks that set no max_new_tokens."),
    "use_cache": ModelArgument(bool, True, "Keep keys and values between tokens; off is slow and saves memory."),
    "strict_weights": ModelArgument(bool, True, "Refuse a checkpoint whose weights do not match the model one to one."),
    "trust_remote_code": ModelArgument(bool, False, "Allow the checkpoint's own Python code to run."),
}

_HUGGINGFACE_LOADER = "lmms_eval_grpc.engine.models.huggingface.backend:load"


def _family(name: str, description: str, **more: Any) -> ModelEntry:
    """A family of checkpoints that the Hugging Face backend runs."""
    more.setdefault("requires", ("torch", "transformers>=5", "accelerate", "pillow"))
    return ModelEntry(name, description, _HUGGINGFACE_LOADER, HUGGINGFACE_ARGUMENTS, **more)


def _server(name: str, arguments: Mapping[str, ModelArgument], **more: Any) -> ModelEntry:
    """A server that speaks OpenAI's API."""
    return ModelEntry(
        name,
        "Any model behind a server that speaks OpenAI's chat API.",
        "lmms_eval_grpc.engine.models.openai.backend:load",
        arguments,
        modalities=("text", "image", "video", "audio"),
        requires=("openai", "pillow"),
        **more,
    )


def _managed(name: str, description: str, arguments: Mapping[str, ModelArgument], **more: Any) -> ModelEntry:
    """An inference server that the job starts and asks through OpenAI's API."""
    loader = "lmms_eval_grpc.engine.models.managed.backend:load"
    return ModelEntry(name, description, loader, arguments, modalities=("text", "image", "video", "audio"), **more)


ENTRIES: tuple[ModelEntry, ...] = (
    _family(
        "huggingface",
        "Any vision-language checkpoint that AutoModelForImageTextToText loads and that brings a chat template.",
        aliases=("hf", "hf_chat", "huggingface_chat", "hf_multimodal"),
    ),
    _family("gemma3", "Gemma 3 with vision.", model_types=("gemma3",)),
    _family("idefics3", "Idefics3.", model_types=("idefics3",)),
    _family(
        "internvl_hf", "InternVL 3 and later in Hugging Face's own layout.", aliases=("internvl3_hf",),
        model_types=("internvl",),
    ),
    _family("llava_hf", "LLaVA 1.5 in Hugging Face's own layout.", aliases=("llava",), model_types=("llava",)),
    _family(
        "llava_onevision", "LLaVA-OneVision in Hugging Face's own layout.", aliases=("llava_onevision_hf",),
        model_types=("llava_onevision",),
    ),
    _family("qwen2_vl", "Qwen2-VL.", aliases=("qwen2_vl_chat",), model_types=("qwen2_vl",)),
    _family("qwen2_5_vl", "Qwen2.5-VL.", aliases=("qwen2_5_vl_chat",), model_types=("qwen2_5_vl",)),
    _family("qwen3_vl", "Qwen3-VL.", aliases=("qwen3_vl_chat",), model_types=("qwen3_vl",)),
    _family(
        "smolvlm", "SmolVLM and SmolVLM2.", aliases=("smolvlm2",), model_types=("smolvlm",),
        requires=("torch", "transformers>=5", "accelerate", "pillow", "num2words"),
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
