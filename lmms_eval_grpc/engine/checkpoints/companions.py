"""The files that a checkpoint needs beside its weights: configuration, tokenizer, processor, chat template, code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.checkpoints.layouts import ShardedCheckpoint

_ABOVE = 3
"""Folders above the checkpoint that are searched."""
_BESIDE = ("huggingface", "hf", "hf_assets")
"""Folders in the checkpoint's in which trainers keep them; verl and torchtitan do."""
_CONFIG = "config.json"
_NAMES = re.compile(
    r"config\.json|generation_config\.json"
    r"|(\w*_)?processor_config\.json|preprocessor_config\.json|(\w+_)?preprocessor_config\.json"
    r"|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|.*\.(spm|tiktoken)"
    r"|\w+\.model|chat_template.*"
)
_CODE = re.compile(r"[A-Za-z_]\w*\.py")


@dataclass(frozen=True, slots=True)
class Companions:
    """What is copied beside the merged weights."""

    config_folder: Path
    """Where ``config.json`` is."""
    files: Mapping[str, Path]
    """By name; of several with one name the one nearest to the shards. ``chat_templates`` may be a folder."""


def find_companions(checkpoint: ShardedCheckpoint, config_path: Path | None) -> Companions:
    """Those in ``config_path``, or those nearest to the shards: from their folder up to the one with ``config.json``.

    Raises:
        EvaluationError: ``NO_MODEL_CONFIG``, with the places that were searched.
    """
    places = [config_path] if config_path is not None else _places(checkpoint)
    taken: dict[str, Path] = {}
    for place in places:
        found = _files_in(place)
        taken = {**found, **taken}
        if _CONFIG in taken:
            return Companions(place, _without_foreign_code(taken))
    searched = ", ".join(str(place) for place in places)
    raise EvaluationError(
        "NO_MODEL_CONFIG",
        f"there is no config.json that describes a model; searched: {searched}. Give the folder of the model that the"
        " training began with as config_path",
    )


def _places(checkpoint: ShardedCheckpoint) -> list[Path]:
    folders = [checkpoint.shards, *checkpoint.shards.parents]
    top = folders.index(checkpoint.folder) + _ABOVE if checkpoint.folder in folders else _ABOVE
    places = []
    for folder in folders[: top + 1]:
        places.append(folder)
        places += [folder / name for name in _BESIDE if (folder / name).is_dir()]
    return places


def _files_in(folder: Path) -> dict[str, Path]:
    try:
        names = sorted(child.name for child in folder.iterdir())
    except OSError:
        return {}
    found = {name: folder / name for name in names if _NAMES.fullmatch(name) and not name.endswith(".index.json")}
    if _CONFIG in found and not _describes_model(found[_CONFIG]):
        del found[_CONFIG]  # of something else: an experiment has one too
    if _CONFIG in found:
        found |= {name: folder / name for name in names if _CODE.fullmatch(name)}
    return found


def _describes_model(path: Path) -> bool:
    settings = read_settings(path)
    return bool(settings.get("model_type") or settings.get("architectures"))


def read_settings(path: Path) -> dict[str, object]:
    """The mapping in a JSON file; empty where there is none."""
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _without_foreign_code(files: Mapping[str, Path]) -> dict[str, Path]:
    """``files``, with Python code only where some configuration says that the checkpoint brings its own."""
    brings_code = any("auto_map" in read_settings(path) for name, path in files.items() if name.endswith(".json"))
    return {name: path for name, path in files.items() if brings_code or not _CODE.fullmatch(name)}
