"""Putting another checkpoint's weights into a model that is loaded already: successive checkpoints of one training run.

A fresh load builds the model, looks for its class and its processor, and allocates everything again; here the tensors
are read into the parameters that are there. Everything that could make the outcome differ from a fresh load is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from lmms_eval_grpc.engine.models.checkpoint_files import digest_processor
from lmms_eval_grpc.engine.models.protocol import CannotReuse

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_VOLATILE_SETTINGS = frozenset({"transformers_version", "_name_or_path", "_commit_hash"})


class CannotSwap(CannotReuse):
    """The weights cannot be put into this model so that it is as freshly loaded; nothing of it was changed."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What of a checkpoint, beside its weights, a loaded model depends on."""

    settings: Mapping[str, Any]
    """``config.json``, without what says nothing of the model."""
    processor: str
    """Digest of the processor's files."""
    generation: str | None
    """``generation_config.json``; None where there is none."""

    @classmethod
    def read(cls, folder: Path) -> Blueprint:
        settings = json.loads((folder / "config.json").read_text())
        generation = folder / "generation_config.json"
        return cls(
            _drop_volatile(settings),
            digest_processor(folder),
            generation.read_text() if generation.is_file() else None,
        )

    def check_same_model(self, wanted: Blueprint) -> None:
        """Raises :class:`CannotSwap` unless both models are built alike."""
        if not (self.settings.get("dtype") or self.settings.get("torch_dtype")):
            raise CannotSwap("config.json names no dtype, so a fresh load would go by the weights")
        keys = {*self.settings, *wanted.settings}
        differing = sorted(key for key in keys if self.settings.get(key) != wanted.settings.get(key))
        if differing:
            raise CannotSwap(f"config.json differs in {', '.join(differing)}")
        if (self.generation is None) != (wanted.generation is None):
            raise CannotSwap("only one of the checkpoints has a generation_config.json")


def load_weights_into(model: Any, folder: Path) -> None:
    """Reads the safetensors files in ``folder`` into the parameters and buffers of ``model``, tensor by tensor.

    Names are translated as transformers does when it loads, numbers are cast to the parameters' types, and nothing is
    touched before it is clear that every tensor of the model gets a value of its shape, exactly once (tied ones count
    as one), and that every tensor of the files has its place. Raises :class:`CannotSwap` otherwise, and OSError or
    SafetensorError for a file that cannot be read half-way, after which the model is of no use.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path)) for path in _weight_files(folder)]
        places = _find_places(model, files)
        with torch.no_grad():
            for file in files:
                for name in list(file.keys()):
                    places[name].copy_(file.get_tensor(name))


def _drop_volatile(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` without what depends on who saved them, in its sections too, whose types follow the whole's."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            section = _drop_volatile(value)
            kept[key] = {name: value for name, value in section.items() if name not in ("dtype", "torch_dtype")}
        elif key not in _VOLATILE_SETTINGS:
            kept[key] = value
    return kept


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    else:
        names = [_SINGLE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CannotSwap(f"{folder} has no {', '.join(missing)}")
    return [folder / name for name in names]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CannotSwap(f"{path.name} is damaged or still being written ({error})") from error


def _find_places(model: Any, files: list[Any]) -> dict[str, torch.Tensor]:
    """The model's tensor for each name in the files."""
    state = model.state_dict()
    unplaced = [name for name, tensor in state.items() if tensor.is_meta]
    if unplaced or getattr(model, "hf_quantizer", None) is not None:
        raise CannotSwap("the model is quantized, or parts of it are kept outside the device's memory")
    rename = _make_renaming(model, state)
    places: dict[str, torch.Tensor] = {}
    filled: dict[int, str] = {}
    for file in files:
        for name in list(file.keys()):
            tensor = state.get(rename(name))
            if tensor is None:
                raise CannotSwap(f"the tensor {name} has no place in {type(model).__name__}")
            shape = file.get_slice(name).get_shape()
            if list(tensor.shape) != shape:
                raise CannotSwap(f"the tensor {name} is {shape}, not {list(tensor.shape)}")
            other = filled.setdefault(_address(tensor), name)
            if other != name or name in places:
                raise CannotSwap(f"the tensors {other} and {name} have the same place")
            places[name] = tensor
    empty = [name for name, tensor in state.items() if _address(tensor) not in filled and tensor.numel()]
    if empty:
        raise CannotSwap(f"there are no tensors for {', '.join(empty[:5])}")
    return places


def _address(tensor: torch.Tensor) -> int:
    """Equal for tied weights."""
    return tensor.data_ptr()


def _make_renaming(model: Any, state: Mapping[str, torch.Tensor]) -> Any:
    """From the name of a tensor in a file to its name in the model."""
    steps = get_model_conversion_mapping(model)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]

    def rename(name: str) -> str:
        renamed, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if converted is not None:
            raise CannotSwap(f"the tensor {name} is converted when it is loaded, not only renamed")
        if renamed not in state and name in state:
            renamed, _ = rename_source_key(name, [], [], model.base_model_prefix, state)
        return str(renamed)

    return rename
