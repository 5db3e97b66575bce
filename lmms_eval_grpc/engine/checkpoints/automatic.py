"""Merging, as a part of an evaluation, the sharded checkpoint that it is given."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationConfig, Reporter
from lmms_eval_grpc.engine.checkpoints.layouts import find_unmerged
from lmms_eval_grpc.engine.checkpoints.staging import staging_folder

_FOLDER = "merged_checkpoint"


def merge_if_sharded(config: EvaluationConfig, run_dir: Path, reporter: Reporter) -> EvaluationConfig:
    """``config`` with a checkpoint that can be loaded in the place of a sharded one, if it asks for that.

    The merged checkpoint is in ``run_dir``; one that an earlier attempt made is used again. Raises what
    :func:`~lmms_eval_grpc.engine.checkpoints.merge.merge_checkpoint` does.
    """
    pretrained = config.model_args.get("pretrained")
    if not config.merge or not isinstance(pretrained, str):
        return config
    output = run_dir.absolute() / _FOLDER
    if not output.is_dir():
        checkpoint = Path(pretrained).expanduser()
        if not checkpoint.is_dir() or find_unmerged(checkpoint) is None:
            return config
        from lmms_eval_grpc.engine.checkpoints.merge import merge_checkpoint

        merge_checkpoint(checkpoint, output, reporter)
    return dataclasses.replace(config, model_args={**config.model_args, "pretrained": str(output)})


def remove_merged(run_dir: Path) -> None:
    """Removes what :func:`merge_if_sharded` made, whole or unfinished."""
    for folder in (run_dir / _FOLDER, staging_folder(run_dir / _FOLDER)):
        shutil.rmtree(folder, ignore_errors=True)
