"""What a folder is, told from the names of its files: where trainers put the shards of a checkpoint.

Light: opens no file and imports no torch, so that a server can refuse in words what it cannot merge.

Known are folders of two formats, wherever they lie (directly, one or two folders below what was named, or in the newest
of several ``checkpoint-300``, ``step-300``, ``global_step_300``):

- ``torch.distributed.checkpoint``: ``.metadata`` and ``*.distcp``. Accelerate and the Hugging Face Trainer
  (``pytorch_model_fsdp_0``), torchtitan (``step-300``), and whatever calls ``dcp.save``.
- one file per rank: ``model_world_size_8_rank_0.pt``, a state dictionary of DTensors. lmms-engine
  (``pytorch_model_fsdp_0``, EMA in ``pytorch_ema_model_fsdp_0``) and verl (``actor``).

EMA weights are in a folder with the word ``ema`` in its name, or, in the same files, under keys that have it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError

RANK_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What ``from_pretrained`` looks for beside ``config.json``."""

_DEPTH = 2
_STEP = re.compile(r"(?:checkpoint|ckpt|step|global_?step|iter|epoch)[-_]?(\d+)")
_OPTIMIZER_WORDS = frozenset({"optim", "optims", "optimizer", "optimizers", "opt"})
_USUAL_NAMES = ("pytorch_model_fsdp_0", "pytorch_ema_model_fsdp_0", "model", "ema_model", "model_ema", "ema")
"""Folders that are taken where there are others beside them, the first that is there."""
_SINGLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".safetensors"})


class NotSharded(EvaluationError):
    """A path is not a checkpoint that can be merged; the message says what it is instead, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__("NOT_SHARDED", message)


class ShardFormat(StrEnum):
    """How shards are stored."""

    DISTRIBUTED_CHECKPOINT = "torch.distributed.checkpoint"
    RANK_FILES = "one file per rank"


@dataclass(frozen=True, slots=True)
class ShardedCheckpoint:
    """Where the shards of a checkpoint are."""

    folder: Path
    """The checkpoint: the folder that was named, or the newest step in it."""
    shards: Path
    """The folder with the shards, ``folder`` itself or below it."""
    format: ShardFormat
    all_ema: bool
    """Whether the folder's name says that everything in ``shards`` is EMA weights."""


def find_shards(path: Path, *, ema: bool = False) -> ShardedCheckpoint:
    """The shards that ``path``, or something below it, holds: of the trained weights, or of their EMA.

    Raises:
        NotSharded: there are none, or several that could be meant.
    """
    if not path.is_dir():
        raise NotSharded(_describe_file(path))
    found = list(_search(path, path, _DEPTH))
    if not found:
        raise NotSharded(f"{str(path)!r} is not a sharded checkpoint: {describe(path)}")
    if found[0].shards == path:
        return found[0]  # whoever names the very folder means what is in it
    of_kind = [one for one in found if one.all_ema == ema]
    if not of_kind and not ema:
        names = ", ".join(sorted(one.shards.name for one in found))
        raise NotSharded(f"{str(path)!r} holds only EMA weights ({names}); ask for those: checkpoint_type 'ema'")
    # EMA weights may also be in the same files as the others, under keys of their own.
    candidates = of_kind or found
    if len(candidates) > 1:
        usual = {one.shards.name: one for one in candidates}
        name = next((name for name in _USUAL_NAMES if name in usual), None)
        if name is None:
            listed = ", ".join(str(one.shards.relative_to(path)) for one in candidates)
            raise NotSharded(f"{str(path)!r} holds several sharded checkpoints; give the path of one of: {listed}")
        return usual[name]
    return candidates[0]


def find_unmerged(folder: Path) -> ShardedCheckpoint | None:
    """The shards of what is no checkpoint for ``from_pretrained`` yet; None of what is one, or holds no shards.

    Raises:
        NotSharded: there are several that could be meant.
    """
    if is_loadable(folder) or not any(_search(folder, folder, _DEPTH)):
        return None
    return find_shards(folder)


def merged_name(checkpoint: ShardedCheckpoint, *, ema: bool) -> Path:
    """Where a merged checkpoint goes that was given no place: beside the sharded one.

    The name begins with ``merged-``, because a Trainer counts, and deletes, whatever begins with ``checkpoint-``.
    """
    return checkpoint.folder.parent / f"merged-{'ema-' if ema else ''}{checkpoint.folder.name}"


def is_loadable(folder: Path | str) -> bool:
    """Whether ``from_pretrained`` would find a configuration and weights in ``folder``."""
    # Asked at every submission: by strings, which are made in a fraction of the time of paths.
    return os.path.isfile(f"{folder}/config.json") and any(os.path.isfile(f"{folder}/{name}") for name in WEIGHT_FILES)  # noqa: PTH113


def words_of(name: str) -> frozenset[str]:
    """The words of a name, in small letters: ``pytorch_ema_model_fsdp_0`` has ``ema``."""
    return frozenset(re.findall(r"[a-z]+", name.lower()))


def is_of_optimizer(name: str) -> bool:
    """Whether a folder or a key belongs to an optimizer."""
    return bool(words_of(name) & _OPTIMIZER_WORDS)


def is_ema(name: str) -> bool:
    """Whether a folder or a key says that it is of a moving average."""
    return "ema" in words_of(name)


def _search(folder: Path, checkpoint: Path, depth: int) -> Iterator[ShardedCheckpoint]:
    """Shards in ``folder`` or at most ``depth`` below it; of several steps only the newest that has any."""
    format = _format_of(folder)
    if format is not None:
        inner = str(folder.relative_to(checkpoint)) if folder != checkpoint else folder.name
        yield ShardedCheckpoint(checkpoint, folder, format, is_ema(inner))
        return
    if depth == 0:
        return
    steps: dict[int, Path] = {}
    found: list[ShardedCheckpoint] = []
    for child in _folders(folder):
        step = _STEP.fullmatch(child.name)
        if step is not None:
            steps[int(step[1])] = child
        elif not is_of_optimizer(child.name):
            found += _search(child, checkpoint, depth - 1)
    if found:
        yield from found
        return
    for step_number in sorted(steps, reverse=True):
        found = list(_search(steps[step_number], steps[step_number], depth - 1))
        if found:
            yield from found
            return


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:  # one that may not be read holds nothing for us
        return []


def _names(folder: Path) -> list[str]:
    try:
        return sorted(child.name for child in folder.iterdir())
    except OSError:
        return []


def _format_of(folder: Path) -> ShardFormat | None:
    names = _names(folder)
    if ".metadata" in names and any(name.endswith(".distcp") for name in names) and "common.pt" not in names:
        return ShardFormat.DISTRIBUTED_CHECKPOINT
    if any(RANK_FILE.fullmatch(name) for name in names):
        return ShardFormat.RANK_FILES
    return None


def _describe_file(path: Path) -> str:
    if path.is_file():
        what = "a single file of weights" if path.suffix in _SINGLE_SUFFIXES else "a file"
        return (
            f"{str(path)!r} is {what}, not the folder of a sharded checkpoint; nothing of it needs merging: load it in"
            " the trainer and call save_pretrained"
        )
    return f"there is no folder {str(path)!r} on the machine that merges"


def describe(folder: Path) -> str:
    """What ``folder``, which holds no shards that can be merged, is instead, and the remedy."""
    names = _names(folder)
    below = [name for child in _folders(folder) for name in _names(child)]

    def any_of(pattern: str, among: list[str] = names) -> bool:
        return any(re.fullmatch(pattern, name) for name in among)

    if not names:
        return "the folder is empty, or may not be read"
    if is_loadable(folder):
        return "it is a whole checkpoint already, which from_pretrained loads; evaluate it as it is"
    if any_of(r"adapter_(config\.json|model\.(safetensors|bin))"):
        return "it is a PEFT adapter; merge it into its base model with merge_and_unload and call save_pretrained"
    if "common.pt" in names or any_of(r"latest_checkpointed_iteration\.txt|mp_rank_\d+.*", names + below):
        return "it is a Megatron checkpoint; convert it with Megatron's own tools (Megatron-Bridge)"
    if any_of(r"zero_to_fp32\.py|(bf16_)?zero_pp_rank_.*|mp_rank_\d+_model_states\.pt", names + below):
        return "it is a DeepSpeed ZeRO checkpoint; merge it with the zero_to_fp32.py that DeepSpeed wrote beside it"
    if any_of(r"shard-\d+-model-\d+-of-\d+\.safetensors", names + below):
        return (
            "its shards are safetensors files of torch's HuggingFaceStorageWriter; consolidate them with"
            " torch.distributed.checkpoint.HuggingFaceStorageWriter(enable_consolidation=True), or torch's"
            " consolidate_safetensors_files"
        )
    if any_of(r".*\.distcp", names + below):
        return (
            "it has *.distcp files but no .metadata, which is written last; the checkpoint is being saved, or its"
            " saving was interrupted"
        )
    if ".metadata" in names:
        return "it has a .metadata file but none of the *.distcp files that belong to it"
    if any_of(r"pytorch_model_fsdp(_\d+)?_rank\d+\.bin"):
        return (
            "its shards are files of FSDP's LOCAL_STATE_DICT, which only the run that wrote them can load; save with"
            " SHARDED_STATE_DICT"
        )
    if any_of(r"pytorch_model(_fsdp)?\.bin|model\.safetensors"):
        return "its weights are whole, only config.json is missing; copy the base model's beside them"
    single = [name for name in names if Path(name).suffix in _SINGLE_SUFFIXES]
    if single:
        return f"its weights are single files ({', '.join(single[:3])}); load them and call save_pretrained"
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"it has neither .metadata with *.distcp nor model_world_size_*_rank_*.pt files; it has: {shown}"
