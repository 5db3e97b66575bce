"""Loading a vision-language checkpoint, and saying in words why one cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.huggingface.memory import is_out_of_memory
from lmms_eval_grpc.engine.models.huggingface.processor import load_processor

_NAMES_SHOWN = 5


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
    pretrained: str, model_types: Sequence[str], *, revision: str | None, trust_remote_code: bool
) -> Any:
    """Reads the checkpoint's configuration and returns it, after checking that it is a vision-language model."""
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
    known = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    remote = trust_remote_code and "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if not known and not remote:
        raise _failed(pretrained, f"its type {config.model_type!r} is no vision-language model that transformers knows")
    if model_types and config.model_type not in model_types:
        raise _failed(
            pretrained,
            f"its type is {config.model_type!r}, this model name is for {', '.join(model_types)}; "
            "use the name of its own family, or 'huggingface' for any",
        )
    return config


def load_checkpoint(
    pretrained: str,
    config: Any,
    *,
    device: torch.device,
    dtype: str,
    device_map: str | Mapping[str, Any] | None,
    attn_implementation: str | None,
    revision: str | None,
    trust_remote_code: bool,
    strict_weights: bool,
) -> tuple[Any, Any]:
    """Model (in evaluation mode, on its device) and processor.

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
        model, report = AutoModelForImageTextToText.from_pretrained(
            pretrained, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise EvaluationError("OUT_OF_MEMORY", f"{pretrained} does not fit on {device}: {error}") from error
        raise _failed(pretrained, _explain(error)) from error
    _check_report(pretrained, type(model).__name__, report, strict_weights)
    try:
        processor = load_processor(pretrained, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _failed(pretrained, f"its processor cannot be loaded: {_first_line(error)}") from error
    return model.eval(), processor


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
