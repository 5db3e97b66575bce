"""Every model backend by the names users type: what it needs, which arguments it takes, how to make one.

Light: neither this module nor anything that it imports at the top imports torch or transformers, so that a server can
list models and refuse a wrong argument in no time. Only :func:`create` imports the backend itself.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError, Problem
from lmms_eval_grpc.engine.models.protocol import Backend

REQUIRED = object()
"""The default of an argument that has none."""


@dataclass(frozen=True, slots=True)
class ModelArgument:
    """One key of ``model_args``."""

    type: type | tuple[type, ...]
    default: Any
    """:data:`REQUIRED`, or the value used when the key is absent."""
    description: str
    choices: tuple[Any, ...] = ()
    """The only values allowed; empty: any value of the type."""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def describe_type(self) -> str:
        types = self.type if isinstance(self.type, tuple) else (self.type,)
        return " or ".join(_TYPE_NAMES.get(kind, kind.__name__) for kind in types)

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` has the right type; an int passes as a float, a bool never passes as an int."""
        types = self.type if isinstance(self.type, tuple) else (self.type,)
        if isinstance(value, bool):
            return bool in types
        if isinstance(value, int) and float in types:
            return True
        return isinstance(value, types)


_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}

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


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One backend as users know it."""

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    kind: str = "chat"
    """``chat`` (takes messages) or ``simple`` (takes a prompt string and visuals)."""
    modalities: tuple[str, ...] = ("text", "image")
    requires: tuple[str, ...] = ("torch", "transformers", "accelerate", "pillow")
    """Names of pip packages without which the backend cannot be made."""
    arguments: Mapping[str, ModelArgument] = field(default_factory=lambda: HUGGINGFACE_ARGUMENTS)
    model_types: tuple[str, ...] = ()
    """``model_type`` values of the checkpoints that this name stands for; empty: any."""
    visual_cot: bool = False
    """Whether the model can draw while it thinks, as its backend's capabilities will say once it is loaded."""

    def check_args(self, model_args: Mapping[str, Any]) -> list[Problem]:
        """Everything wrong with ``model_args``, all at once; empty when nothing is."""
        problems = [
            Problem(f"model_args.{key}", f"model {self.name!r} needs the argument {key!r}: {argument.description}")
            for key, argument in self.arguments.items()
            if argument.required and not model_args.get(key)
        ]
        for key, value in model_args.items():
            argument = self.arguments.get(key)
            if argument is None:
                problems.append(Problem(f"model_args.{key}", self._describe_unknown(key)))
            elif not argument.accepts(value):
                found = _TYPE_NAMES.get(type(value), type(value).__name__)
                problems.append(
                    Problem(f"model_args.{key}", f"{key} must be {argument.describe_type()}, not {found} ({value!r})")
                )
            elif argument.choices and value not in argument.choices:
                allowed = ", ".join(map(str, argument.choices))
                problems.append(Problem(f"model_args.{key}", f"{key} must be one of {allowed}, not {value!r}"))
        return problems

    def _describe_unknown(self, key: str) -> str:
        near = difflib.get_close_matches(key, self.arguments, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"model {self.name!r} has no argument {key!r}{hint} Its arguments are: {', '.join(self.arguments)}"


_ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry(
        "huggingface",
        "Any vision-language checkpoint that AutoModelForImageTextToText loads and that brings a chat template.",
        aliases=("hf", "hf_chat", "huggingface_chat", "hf_multimodal"),
    ),
    ModelEntry("gemma3", "Gemma 3 with vision.", model_types=("gemma3",)),
    ModelEntry("idefics3", "Idefics3.", model_types=("idefics3",)),
    ModelEntry(
        "internvl_hf", "InternVL 3 and later in Hugging Face's own layout.", aliases=("internvl3_hf",),
        model_types=("internvl",),
    ),
    ModelEntry("llava_hf", "LLaVA 1.5 in Hugging Face's own layout.", aliases=("llava",), model_types=("llava",)),
    ModelEntry(
        "llava_onevision", "LLaVA-OneVision in Hugging Face's own layout.", aliases=("llava_onevision_hf",),
        model_types=("llava_onevision",),
    ),
    ModelEntry("qwen2_vl", "Qwen2-VL.", aliases=("qwen2_vl_chat",), model_types=("qwen2_vl",)),
    ModelEntry("qwen2_5_vl", "Qwen2.5-VL.", aliases=("qwen2_5_vl_chat",), model_types=("qwen2_5_vl",)),
    ModelEntry("qwen3_vl", "Qwen3-VL.", aliases=("qwen3_vl_chat",), model_types=("qwen3_vl",)),
    ModelEntry(
        "smolvlm", "SmolVLM and SmolVLM2.", aliases=("smolvlm2",), model_types=("smolvlm",),
        requires=("torch", "transformers", "accelerate", "pillow", "num2words"),
    ),
)  # fmt: skip

_BY_NAME: Mapping[str, ModelEntry] = {
    name: entry for entry in _ENTRIES for name in (entry.name, *entry.aliases)
}  # fmt: skip

_MODULE_OF_PACKAGE = {"pillow": "PIL"}


def entries() -> tuple[ModelEntry, ...]:
    """Every backend, in the order in which to show them."""
    return _ENTRIES


def resolve(name: str) -> ModelEntry | None:
    """The backend of that name or alias; None: there is none."""
    return _BY_NAME.get(name)


def closest(name: str, n: int = 3) -> tuple[str, ...]:
    """Up to ``n`` known names and aliases that look like ``name``, nearest first."""
    return tuple(difflib.get_close_matches(name, _BY_NAME, n=n))


def missing_packages(entry: ModelEntry) -> tuple[str, ...]:
    """Which of the pip packages that the backend needs are not installed here. Imports none of them."""
    return tuple(
        package
        for package in entry.requires
        if importlib.util.find_spec(_MODULE_OF_PACKAGE.get(package, package)) is None
    )


def create(
    name: str,
    model_args: Mapping[str, Any],
    *,
    device: str,
    batch_size: int | None = None,
    max_batch_size: int | None = None,
    trust_remote_code: bool = False,
) -> Backend:
    """Loads the model: heavy imports, weights to ``device``.

    Raises :class:`EvaluationError` with reason ``UNKNOWN_MODEL``, ``INVALID_MODEL_ARGS``, ``MISSING_PACKAGES``,
    ``MODEL_LOAD_FAILED`` or ``OUT_OF_MEMORY``.
    """
    entry = resolve(name)
    if entry is None:
        near = closest(name)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        raise EvaluationError("UNKNOWN_MODEL", f"there is no model {name!r}{hint}")
    problems = entry.check_args(model_args)
    if problems:
        raise EvaluationError("INVALID_MODEL_ARGS", "; ".join(problem.description for problem in problems))
    missing = missing_packages(entry)
    if missing:
        raise EvaluationError(
            "MISSING_PACKAGES", f"model {name!r} needs packages that are not installed: pip install {' '.join(missing)}"
        )
    from lmms_eval_grpc.engine.models.huggingface import HuggingFaceBackend, HuggingFaceOptions

    defaults = {key: argument.default for key, argument in entry.arguments.items() if not argument.required}
    values = {**defaults, **model_args}
    values["trust_remote_code"] = bool(values["trust_remote_code"]) or trust_remote_code
    options = HuggingFaceOptions(
        **values, device=device, batch_size=batch_size, max_batch_size=max_batch_size, model_types=entry.model_types
    )
    return HuggingFaceBackend.load(options)
