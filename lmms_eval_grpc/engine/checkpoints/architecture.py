"""The model that a configuration describes, without its weights: names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

_ALWAYS_IGNORED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
"""Buffers that older releases of transformers saved; today's have them elsewhere, or compute them."""


class UnknownArchitecture(Exception):
    """transformers has no class for the configuration, or only with the checkpoint's own code."""


class Architecture:
    """Names and shapes of a model's tensors."""

    def __init__(self, folder: Path) -> None:
        """``folder`` has the ``config.json``. Raises :class:`UnknownArchitecture`."""
        self._model = _build(folder)
        self._state: dict[str, torch.Tensor] = self._model.state_dict()
        self.name = type(self._model).__name__
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._state.items()}
        """By name in memory; tied tensors have several."""
        self.tied: Mapping[str, str] = dict(getattr(self._model, "all_tied_weights_keys", None) or {})
        """Names that share another's tensor, and that other's name."""
        steps = get_model_conversion_mapping(self._model)
        self._renamings = [step for step in steps if isinstance(step, WeightRenaming)]
        self._converters = [step for step in steps if isinstance(step, WeightConverter)]
        self._file_names = {name: self._file_name(name) for name in self._state}
        self._by_file_name = {file: name for name, file in self._file_names.items()}

    def find(self, name: str) -> str | None:
        """The name in memory of a tensor that is called ``name`` in memory or in files."""
        return name if name in self._state else self._by_file_name.get(name)

    def file_name(self, name: str) -> str:
        """What ``save_pretrained`` calls the tensor with this name in memory, if ``from_pretrained`` finds it so."""
        return self._file_names[name]

    def may_lack(self, name: str) -> bool:
        """Whether a checkpoint need not have the tensor."""
        return _matches(name, getattr(self._model, "_keys_to_ignore_on_load_missing", None))

    def may_ignore(self, name: str) -> bool:
        """Whether a tensor that the model has no place for means nothing."""
        ignored = getattr(self._model, "_keys_to_ignore_on_load_unexpected", None) or ()
        return _matches(name, (*_ALWAYS_IGNORED, *ignored))

    def _file_name(self, name: str) -> str:
        """Names that need arithmetic on their tensors to be saved, as experts put together, stay as in memory."""
        try:
            saved = revert_weight_conversion(self._model, {name: self._state[name]})
        except Exception:  # a conversion of several tensors, of which this is one
            return name
        if len(saved) != 1:
            return name
        ((file_name, tensor),) = saved.items()
        same = tensor.shape == self._state[name].shape and self._loaded_as(file_name) == name
        return str(file_name) if same else name

    def _loaded_as(self, file_name: str) -> str | None:
        """The name in memory of what ``from_pretrained`` finds under ``file_name``; None if it would change it."""
        renamed, converted = rename_source_key(
            file_name, self._renamings, self._converters, self._model.base_model_prefix, self._state
        )
        return None if converted is not None else str(renamed)


def _build(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UnknownArchitecture(str(error).strip().splitlines()[0]) from error
    kind = next((getattr(transformers, name, None) for name in config.architectures or ()), None)
    if kind is None:
        multimodal = config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
        auto = AutoModelForMultimodalLM if multimodal else AutoModelForCausalLM
        try:
            kind = auto._model_mapping[type(config)]
        except KeyError:
            raise UnknownArchitecture(f"transformers has no model for the type {config.model_type!r}") from None
    with torch.device("meta"):
        return kind._from_config(config)


def _matches(name: str, patterns: Iterable[str] | None) -> bool:
    return any(re.search(pattern, name) for pattern in patterns or ())
