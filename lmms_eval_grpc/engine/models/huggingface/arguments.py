"""The keys of ``model_args`` of Hugging Face models, by what a family reads. Imports no model library."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from lmms_eval_grpc.engine.models.entry import REQUIRED, ModelArgument
from lmms_eval_grpc.engine.models.generation_arguments import COMMON_KEYS
from lmms_eval_grpc.engine.packages import package_folder

Arguments = Mapping[str, ModelArgument]

_GENERATION_CONFIG = "generation/configuration_utils.py"
_FIELD = re.compile(r"^ +self\.([a-z]\w*) = kwargs\.pop\(", re.MULTILINE)

DTYPES = ("auto", "bfloat16", "float16", "float32")

_TEXT: Arguments = {
    "pretrained": ModelArgument(
        str,
        REQUIRED,
        "Folder of a checkpoint, its id on the Hugging Face Hub, or a URL that fsspec reads.",
        names="checkpoint",
    ),
    "revision": ModelArgument((str, type(None)), None, "Branch, tag or commit of a Hub checkpoint."),
    "dtype": ModelArgument(
        str,
        "auto",
        "Number format of the weights; auto: as saved.",
        choices=DTYPES,
        other_names=("torch_dtype",),
    ),
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
    "chat_template": ModelArgument(
        (str, type(None)), None, "Chat template (Jinja), or a file with one; unset: the checkpoint's.", names="file"
    ),
    "system_prompt": ModelArgument(
        (str, type(None)),
        None,
        "System message, or a file with one, for conversations that bring none; unset: whatever the template has.",
        names="file",
    ),
    "reasoning_prompt": ModelArgument(
        (str, type(None)), None, "Text, or a file with it, that is put behind every question.", names="file"
    ),
    "max_new_tokens": ModelArgument(int, 4096, "Longest answer, in tokens, for tasks that set no max_new_tokens."),
    "use_cache": ModelArgument(bool, True, "Keep keys and values between tokens; off is slow and saves memory."),
    "strict_weights": ModelArgument(bool, True, "Refuse a checkpoint whose weights do not match the model one to one."),
    "trust_remote_code": ModelArgument(bool, False, "Allow the checkpoint's own Python code to run."),
}

_IMAGES: Arguments = {
    "min_pixels": ModelArgument(
        (int, type(None)), None, "Images with fewer pixels than this are enlarged to it, keeping their shape."
    ),
    "max_pixels": ModelArgument(
        (int, type(None)), None, "Images with more pixels than this are scaled down to it, keeping their shape."
    ),
    "interleave_visuals": ModelArgument(
        bool, False, "Put images where the text says <image 1>, <image 2>, …; off: where the task puts them."
    ),
}

_FRAMES: Arguments = {
    "max_num_frames": ModelArgument(
        (int, type(None)), None, "Most frames of a video; unset: 32, or 768 where fps is given."
    ),
    "fps": ModelArgument((float, type(None)), None, "Frames for each second of a video; unset: max_num_frames of it."),
}


def arguments(*modalities: str, most_frames: str = "", **defaults: Any) -> dict[str, ModelArgument]:
    """Those that act on models reading text and ``modalities``; ``defaults`` replace those of single arguments.

    ``most_frames`` is another name of ``max_num_frames``, as lmms-eval has it for some families.
    """
    found = dict(_TEXT)
    if "image" in modalities:
        found |= _IMAGES
    if "video" in modalities:
        found |= _FRAMES
        if most_frames:
            found["max_num_frames"] = dataclasses.replace(found["max_num_frames"], other_names=(most_frames,))
    return found | {name: dataclasses.replace(found[name], default=value) for name, value in defaults.items()}


FLASH_ATTENTION: Arguments = {
    "use_flash_attention_2": ModelArgument(bool, False, "The same as attn_implementation=flash_attention_2.")
}

TOTAL_PIXELS: Arguments = {
    "total_pixels": ModelArgument(
        (int, type(None)), None, "Pixels that the frames of a video share; unset: 90 % of 128,000 tokens' worth."
    )
}

THINKING: Arguments = {
    "enable_thinking": ModelArgument(
        (bool, type(None)),
        None,
        "Handed to the chat template; true also cuts answers behind </think>. Unset: the template's own choice.",
    )
}

PATCHES: Arguments = {
    "min_patches": ModelArgument((int, type(None)), None, "Fewest tiles of an image; unset: the checkpoint's."),
    "max_patches": ModelArgument((int, type(None)), None, "Most tiles of an image; unset: the checkpoint's."),
}

SPLITTING: Arguments = {
    "do_image_splitting": ModelArgument(
        (bool, type(None)), None, "Cut large images into tiles; unset: as the checkpoint says."
    )
}


@functools.cache
def generation_keys() -> frozenset[str] | None:
    """The keys of generation arguments that the installed transformers takes, read from its file; None: not known."""
    folder = package_folder("transformers")
    try:
        text = (folder / _GENERATION_CONFIG).read_text(encoding="utf-8") if folder else ""
    except OSError:
        return None
    fields = frozenset(_FIELD.findall(text))
    return COMMON_KEYS | fields if "max_new_tokens" in fields else None
