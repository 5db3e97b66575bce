"""Merging a sharded checkpoint into safetensors files, one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lmms_eval_grpc.engine.api import EvaluationCancelled, ProgressReport, Reporter, Stage
from lmms_eval_grpc.engine.checkpoints.companions import Companions, find_companions
from lmms_eval_grpc.engine.checkpoints.layouts import find_shards, merged_name
from lmms_eval_grpc.engine.checkpoints.naming import Naming, decide_names
from lmms_eval_grpc.engine.checkpoints.opening import open_shards
from lmms_eval_grpc.engine.checkpoints.safetensors_file import (
    DEFAULT_MAX_BYTES,
    PlannedTensor,
    bytes_of,
    plan_files,
    write_file,
    write_index,
)
from lmms_eval_grpc.engine.checkpoints.shards import Shards
from lmms_eval_grpc.engine.checkpoints.staging import staged

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MergedCheckpoint:
    """What a merge produced."""

    folder: str
    size_bytes: int
    """Of the weights."""
    tensors: int
    files: int
    """Of weights."""


def merge_checkpoint(
    checkpoint: Path,
    output: Path | None,
    reporter: Reporter,
    *,
    ema: bool = False,
    config_path: Path | None = None,
    max_shard_bytes: int = 0,
    receipt: Path | None = None,
) -> MergedCheckpoint:
    """Merges the shards in ``checkpoint`` into a new folder that ``from_pretrained`` loads.

    Values and types of the tensors stay as they are, bit by bit. In memory there is never more than one tensor and one
    shard of it. ``output`` appears whole at the end, or not at all; what an attempt that crashed has left beside it is
    removed by the next. The reporter is told of the bytes written, and asked between blocks of 64 MiB whether to stop.

    Args:
        output: must not exist, or be empty; None: beside the checkpoint.
        ema: the moving average of the weights instead of the weights.
        config_path: folder with the configuration, tokenizer and processor; None: looked for near the shards.
        max_shard_bytes: largest file of weights to write; 0: 5 GB.
        receipt: a file of the caller's, by which an attempt that follows knows that an earlier one was done.

    Raises:
        EvaluationError: ``NOT_SHARDED``, ``NO_MODEL_CONFIG``, ``NAMES_DO_NOT_MATCH``, ``NO_EMA_WEIGHTS``,
            ``SHARDS_UNREADABLE``, ``UNSUPPORTED_DTYPE``, ``OUTPUT_EXISTS``, ``OUTPUT_BUSY``, ``OUTPUT_NOT_WRITABLE``.
        EvaluationCancelled: the reporter asked for it.
    """
    reporter.progress(ProgressReport(Stage.MERGING))
    # Before the shards are looked for: they may be gone since an attempt that was not told to be done.
    done = _read_receipt(receipt)
    if done is not None:
        logger.info("merged already by an earlier attempt: %s", done.folder)
        return done
    source = find_shards(checkpoint, ema=ema)
    output = output or merged_name(source, ema=ema)
    companions = find_companions(source, config_path)
    logger.info("shards: %s (%s); configuration: %s", source.shards, source.format, companions.config_folder)
    shards = open_shards(source)
    named_ema = source.all_ema and (ema or source.shards == checkpoint)
    naming = decide_names(shards.tensors, companions.config_folder, ema=ema, all_ema=named_ema)
    _tell(shards, naming)
    planned = _plan(shards, naming)
    files = plan_files(planned, max_shard_bytes or DEFAULT_MAX_BYTES)
    total = sum(tensor.nbytes for tensor in planned)
    result = MergedCheckpoint(str(output), total, len(planned), len(files))
    written = 0

    def wrote(count: int) -> None:
        nonlocal written
        written += count
        reporter.progress(ProgressReport(Stage.MERGING, bytes_done=written, bytes_total=total))
        if reporter.cancelled():
            raise EvaluationCancelled

    with staged(output, lambda folder: _write_receipt(receipt, folder, result)) as folder:
        wrote(0)
        for name, group in files.items():
            write_file(folder / name, group, shards.read, wrote)
        if len(files) > 1:
            write_index(folder, files)
        _copy_companions(companions, folder, {tensor.dtype for tensor in planned})
    logger.info("merged %d tensors, %d bytes, into %s", result.tensors, result.size_bytes, output)
    return result


def _plan(shards: Shards, naming: Naming) -> list[PlannedTensor]:
    """What is to be written. Of tied tensors one, if their bits are the same."""
    left_out = set()
    for key, source in naming.tied.items():
        if _digest(shards, key) == _digest(shards, source):
            left_out.add(key)
        else:
            logger.warning("%s and %s are tied in the configuration but differ; both are kept", key, source)
    planned = []
    for key, name in naming.names.items():
        if key not in left_out:
            stored = shards.tensors[key]
            planned.append(PlannedTensor(name, key, stored.shape, stored.dtype, stored.nbytes))
    return planned


def _digest(shards: Shards, key: str) -> tuple[object, ...]:
    tensor = shards.read(key)
    values = hashlib.sha256(bytes_of(tensor)).hexdigest()
    return tensor.dtype, tensor.shape, values


def _tell(shards: Shards, naming: Naming) -> None:
    """Logs what is left out, and what could not be checked."""
    skipped = [key for key in shards.tensors if key not in naming.names]
    if skipped or shards.others:
        beginnings = sorted({key.partition(".")[0] for key in (*skipped, *shards.others)})
        logger.info(
            "left out: %d tensors and %d other entries, under %s",
            len(skipped),
            len(shards.others),
            ", ".join(beginnings[:10]),
        )
    if naming.unchecked:
        logger.warning("the names could not be checked: %s", naming.unchecked)


def _copy_companions(companions: Companions, folder: Path, dtypes: Iterable[torch.dtype]) -> None:
    for name, path in companions.files.items():
        if path.is_dir():
            shutil.copytree(path, folder / name)
        else:
            shutil.copyfile(path, folder / name)
    _set_dtype(folder / "config.json", {dtype for dtype in dtypes if dtype.is_floating_point})


def _set_dtype(path: Path, dtypes: set[torch.dtype]) -> None:
    """Makes the configuration name the type that the weights have, as ``save_pretrained`` does.

    A training that keeps its weights in another type than the model it began with would else be rounded when it is
    loaded. Where the weights have several types the configuration is left as it is.
    """
    if len(dtypes) != 1:
        return
    settings = json.loads(path.read_text())
    name = str(dtypes.pop()).removeprefix("torch.")
    if settings.get("dtype", settings.get("torch_dtype")) != name:
        settings.pop("torch_dtype", None)
        settings["dtype"] = name
        path.write_text(json.dumps(settings, indent=2) + "\n")


def _write_receipt(receipt: Path | None, folder: Path, result: MergedCheckpoint) -> None:
    """Notes which folder is about to be renamed, so that after a crash it is known again under its new name."""
    if receipt is not None:
        receipt.parent.mkdir(parents=True, exist_ok=True)
        status = folder.stat()
        receipt.write_text(json.dumps({"device": status.st_dev, "inode": status.st_ino, "result": asdict(result)}))


def _read_receipt(receipt: Path | None) -> MergedCheckpoint | None:
    """What an earlier attempt made, if it came to its end."""
    if receipt is None or not receipt.is_file():
        return None
    try:
        noted = json.loads(receipt.read_text())
        result = MergedCheckpoint(**noted["result"])
        status = Path(result.folder).stat()
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if (status.st_dev, status.st_ino) == (noted["device"], noted["inode"]) else None
