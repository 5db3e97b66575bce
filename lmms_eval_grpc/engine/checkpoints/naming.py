"""Which of the tensors in a training checkpoint are the model's, and what they are called in the merged one.

Trainers keep the model's state dictionary beside the optimizer's, under names of their own (``model.``, ``app.model.``,
``ema.module.``), and wrappers add theirs (``_orig_mod.``). Nothing of this is assumed: the names are held against those
of the architecture that the configuration describes, and what goes before them is whatever makes them fit.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.checkpoints.architecture import Architecture, UnknownArchitecture
from lmms_eval_grpc.engine.checkpoints.layouts import is_ema, is_of_optimizer
from lmms_eval_grpc.engine.checkpoints.shards import StoredTensor

logger = logging.getLogger(__name__)

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules around modules: of torch.compile, FSDP, activation checkpointing."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Naming:
    """What becomes of the tensors of a checkpoint."""

    names: Mapping[str, str]
    """Of the tensors that are merged: by their key, their names in the merged checkpoint."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Keys of tensors that should equal another's, and that other's key."""
    unchecked: str = ""
    """Why the names could not be held against an architecture; empty when they were."""


def decide_names(tensors: Mapping[str, StoredTensor], config_folder: Path, *, ema: bool, all_ema: bool) -> Naming:
    """The names of the trained weights, or of their EMA.

    Args:
        config_folder: has the ``config.json`` of the architecture.
        all_ema: all the tensors are EMA weights, also where their keys do not say so.

    Raises:
        EvaluationError: ``NAMES_DO_NOT_MATCH``, ``NO_EMA_WEIGHTS``, ``NOT_SHARDED``.
    """
    flat = next((key for key in tensors if "flat_param" in key.rpartition(".")[2]), None)
    if flat is not None:
        raise EvaluationError(
            "NOT_SHARDED",
            f"its tensors are FSDP1's flat parameters ({flat}), which have lost the names of what is in them; save with"
            " SHARDED_STATE_DICT",
        )
    keys = [key for key in tensors if not is_of_optimizer(key)]
    if not all_ema:
        of_kind = [key for key in keys if is_ema(key) == ema]
        if ema and not of_kind:
            raise EvaluationError(
                "NO_EMA_WEIGHTS", f"it has no EMA weights: no folder and no key has the word ema; {_containers(keys)}"
            )
        keys = of_kind
    try:
        architecture = Architecture(config_folder)
    except UnknownArchitecture as error:
        return Naming(_names_by_container(keys, tensors), unchecked=str(error))
    return _names_by_architecture(keys, tensors, architecture)


def _names_by_architecture(keys: list[str], tensors: Mapping[str, StoredTensor], architecture: Architecture) -> Naming:
    cleaned = {_without_wrappers(key): key for key in keys}
    prefix = _best_prefix(cleaned, architecture)
    if prefix is None:
        example = ", ".join(list(cleaned)[:_SHOWN])
        raise _mismatch(f"none of its tensors has a name of {architecture.name}; it has {example or 'none at all'}")
    found: dict[str, str] = {}
    unexpected = []
    first_words = {name.partition(".")[0] for name in architecture.shapes}
    for name, key in cleaned.items():
        if not name.startswith(prefix):
            continue
        rest = name.removeprefix(prefix)
        place = architecture.find(rest)
        if place is not None:
            found[place] = key
        # What shares no first word with the model's names is other state that lies beside it.
        elif rest.partition(".")[0] in first_words and not architecture.may_ignore(rest):
            unexpected.append(rest)
    _check_complete(found, unexpected, tensors, architecture, prefix)
    tied = {
        found[name]: found[source] for name, source in architecture.tied.items() if name in found and source in found
    }
    return Naming({key: architecture.file_name(place) for place, key in found.items()}, tied)


def _best_prefix(names: Iterable[str], architecture: Architecture) -> str | None:
    """What goes before the names: what makes most of them names of the architecture; of several the shortest."""
    fitting: defaultdict[str, int] = defaultdict(int)
    for name in names:
        for prefix, rest in _splits(name):
            if architecture.find(rest) is not None:
                fitting[prefix] += 1
    return min(fitting, key=lambda prefix: (-fitting[prefix], len(prefix)), default=None)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """``a.b.c``: ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    yield "", name
    for position, character in enumerate(name):
        if character == ".":
            yield name[: position + 1], name[position + 1 :]


def _check_complete(
    found: Mapping[str, str],
    unexpected: list[str],
    tensors: Mapping[str, StoredTensor],
    architecture: Architecture,
    prefix: str,
) -> None:
    shared = {**architecture.tied, **{source: name for name, source in architecture.tied.items()}}
    missing = [
        name
        for name in architecture.shapes
        if name not in found and shared.get(name) not in found and not architecture.may_lack(name)
    ]
    misshapen = [
        f"{name} {list(tensors[key].shape)} for {list(architecture.shapes[name])}"
        for name, key in found.items()
        if tensors[key].shape != architecture.shapes[name]
    ]
    faults = []
    if missing:
        faults.append(f"lacks {len(missing)} of {len(architecture.shapes)} ({_list(missing)})")
    if unexpected:
        faults.append(f"has {len(unexpected)} that belong nowhere ({_list(unexpected)})")
    if misshapen:
        faults.append(f"has {len(misshapen)} of another shape ({_list(misshapen)})")
    if faults:
        hint = "the configuration is that of another model: give the right one as config_path"
        if any("lora_" in name for name in unexpected):
            hint = "it has LoRA weights: merge them into the model, with merge_and_unload, before it is saved"
        where = f" under {prefix!r}" if prefix else ""
        raise _mismatch(f"of the tensors of {architecture.name} it{where} {'; it '.join(faults)}. Perhaps {hint}")


def _names_by_container(keys: list[str], tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Where no architecture is known: the state dictionary with the most bytes, by the names that it has."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for key in keys:
        sizes[tensors[key].container] += tensors[key].nbytes
    if not sizes:
        raise _mismatch("it has no tensors of a model")
    container = max(sizes, key=lambda name: sizes[name])
    start = f"{container}." if container else ""
    return {key: _without_wrappers(key.removeprefix(start)) for key in keys if tensors[key].container == container}


def _without_wrappers(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _containers(keys: Iterable[str]) -> str:
    first = dict.fromkeys(key.partition(".")[0] for key in keys)
    return f"its keys begin with {_list(first)}"


def _list(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _mismatch(message: str) -> EvaluationError:
    return EvaluationError("NAMES_DO_NOT_MATCH", message)
