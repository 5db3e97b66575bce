"""Loading a checkpoint, and saying in words why one cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.exhaustion import is_out_of_memory
from lmms_eval_grpc.engine.models.checkpoint_files import read_text
from lmms_eval_grpc.engine.models.huggingface.processor import load_processor

_NAMES_SHOWN = 5

_SPEAKING_PARTS = {"qwen2_5_omni": "thinker_config", "qwen3_omni_moe": "thinker_config"}
"""Of models that also make sound: the part of their configuration that belongs to the model that writes."""


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; :class:`EvaluationError` ``DEVICE_UNAVAILABLE`` if this process cannot use it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        available = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise EvaluationError(
            "DEVICE_UNAVAILABLE",
            f"device {name!r} cannot be used ({_first_line(error)}); available: {', '.join(['cpu', *available])}",
        ) from error
    return device


def check_checkpoint(
    pretrained: str, model_types: Sequence[str], *, text_only: bool, revision: str | None, trust_remote_code: bool
) -> Any:
    """Reads the checkpoint's configuration and returns it, after checking that it is a model that can be run.

    ``text_only``: it must be a language model.
    """
    folder = Path(pretrained).expanduser()
    if folder.is_absolute() or pretrained.startswith((".", "~")):
        if not folder.is_dir():
            raise _failed(pretrained, "there is no such folder on the machine that evaluates")
        if not (folder / "config.json").is_file():
            raise _failed(pretrained, "it has no config.json; give the folder that save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(pretrained, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error) and not trust_remote_code:
            why = "it brings Python code of its own; if you trust it, allow it with trust_remote_code"
            raise _failed(pretrained, why) from error
        raise _failed(pretrained, _first_line(error)) from error
    if model_types and config.model_type not in model_types:
        raise _failed(
            pretrained,
            f"its type is {config.model_type!r}, this model name is for {', '.join(model_types)}; "
            "use the name of its own family, or 'huggingface' for any",
        )
    if _auto_class(config, trust_remote_code) is None:
        raise _failed(
            pretrained, f"its type {config.model_type!r} is no multimodal or language model that transformers knows"
        )
    if text_only and not is_language_model(config, trust_remote_code):
        why = f"its type {config.model_type!r} reads more than text; use the name of its family, or 'huggingface'"
        raise _failed(pretrained, why)
    return config


def is_language_model(config: Any, trust_remote_code: bool) -> bool:
    """Whether it reads nothing but text."""
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return known and _auto_class(config, trust_remote_code) is AutoModelForCausalLM


def _auto_class(config: Any, trust_remote_code: bool) -> Any | None:
    """What loads models of this type; None: nothing does."""
    own = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    if config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return AutoModelForMultimodalLM
    for name in ("AutoModelForMultimodalLM", "AutoModelForImageTextToText"):
        if name in own:
            return getattr(transformers, name)
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in own
    return AutoModelForCausalLM if known else None


def load_checkpoint(
    pretrained: str,
    config: Any,
    *,
    device: torch.device,
    dtype: str,
    device_map: str | Mapping[str, Any] | None,
    attn_implementation: str | None,
    chat_template: str | None,
    revision: str | None,
    trust_remote_code: bool,
    strict_weights: bool,
    processor: Any | None = None,
) -> tuple[Any, Any]:
    """Model (in evaluation mode, on its device) and processor, which may have been loaded before.

    Raises :class:`EvaluationError` ``MODEL_LOAD_FAILED`` or ``OUT_OF_MEMORY``.
    """
    options: dict[str, Any] = {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if device_map is not None:
        options["device_map"] = device_map
    elif device.type != "cpu":
        options["device_map"] = {"": str(device)}  # straight to the device, without a copy in main memory
    try:
        loader: Any = _auto_class(config, trust_remote_code)
        part = _SPEAKING_PARTS.get(config.model_type)
        model, report = loader.from_pretrained(
            pretrained,
            config=getattr(config, part) if part else config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise EvaluationError("OUT_OF_MEMORY", f"{pretrained} does not fit on {device}: {error}") from error
        raise _failed(pretrained, _explain(error)) from error
    _check_report(pretrained, type(model).__name__, report, strict_weights)
    try:
        processor = processor or load_processor_of(
            pretrained,
            config,
            chat_template=chat_template,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:
        raise _failed(pretrained, f"its processor cannot be loaded: {_first_line(error)}") from error
    return model.eval(), processor


def load_processor_of(
    pretrained: str, config: Any, *, chat_template: str | None, revision: str | None, trust_remote_code: bool
) -> Any:
    """The processor of a checkpoint with this configuration, with the given chat template (text or a file) or its own.

    Raises whatever transformers raises, and ValueError where there is no chat template.
    """
    processor = load_processor(
        pretrained,
        config,
        text_only=is_language_model(config, trust_remote_code),
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if chat_template is not None:
        processor.chat_template = read_text(chat_template)
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            "it has no chat template (chat_template.jinja); an instruction-tuned checkpoint brings one, "
            "or give one as chat_template"
        )
    return processor


def _check_report(pretrained: str, class_name: str, report: Mapping[str, Iterable[Any]], strict: bool) -> None:
    """Weights that are missing or misshapen would be random, and unexpected ones mean that this is another model."""
    misshapen = [f"{name} {list(saved)} for {list(wanted)}" for name, saved, wanted in report["mismatched_keys"]]
    if misshapen:
        raise _failed(pretrained, f"its weights do not fit its config.json: {_list(misshapen)}")
    kinds = {"missing_keys": "lacks weights", "unexpected_keys": "has weights that belong nowhere"}
    faults = [f"{verb} ({_list(keys)})" for name, verb in kinds.items() if (keys := [*report[name]])]
    if faults and strict:
        raise _failed(
            pretrained,
            f"for {class_name} it {' and '.join(faults)}. If you know that this is right, set strict_weights to false",
        )


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return ", ".join(ordered[:_NAMES_SHOWN]) + more


def _explain(error: Exception) -> str:
    text = _first_line(error)
    if type(error).__name__ == "SafetensorError":
        return f"a weights file is damaged or still being written ({text})"
    return text


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:500]


def _failed(pretrained: str, why: str) -> EvaluationError:
    return EvaluationError("MODEL_LOAD_FAILED", f"checkpoint {pretrained!r} cannot be loaded: {why}")
