"""What a merge that is asked for comes down to, from the names of the files that are there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.checkpoints.companions import find_companions
from lmms_eval_grpc.engine.checkpoints.layouts import find_shards, find_unmerged, merged_name
from lmms_eval_grpc.engine.checkpoints.staging import check_free
from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.jobs.spec import CheckpointKind, EvaluationSpec, MergeMode, MergeSpec


def settle_checkpoint(spec: EvaluationSpec) -> EvaluationSpec:
    """``spec`` with the checkpoint that it means, where it names a run's folder and has its newest checkpoint merged:
    however long the job waits, and however often it is tried, it is about that one. It must have been found to be
    sound."""
    pretrained = spec.model_args.get("pretrained")
    if spec.merge is not MergeMode.AUTO or not isinstance(pretrained, str):
        return spec
    folder = Path(pretrained).expanduser()
    try:
        found = find_unmerged(folder) if folder.is_dir() else None
    except (EvaluationError, OSError):  # changed since it was looked at; whoever merges it says why
        return spec
    if found is None or found.folder == folder:
        return spec
    return dataclasses.replace(spec, model_args={**spec.model_args, "pretrained": str(found.folder)})


def settle_merge(spec: MergeSpec) -> tuple[MergeSpec, list[Violation]]:
    """``spec`` with the checkpoint and the output that it means, and what keeps it from being merged.

    The newest of several checkpoints is settled now, so that the job merges that one however long it waits. The paths
    of ``spec`` must be absolute.
    """
    ema = spec.checkpoint_kind is CheckpointKind.EMA
    asked = spec
    problems: dict[str, str] = {}
    output = Path(spec.output_path).expanduser() if spec.output_path else None
    try:
        checkpoint = find_shards(Path(spec.checkpoint_path).expanduser(), ema=ema)
    except (EvaluationError, OSError) as error:
        problems["checkpoint_path"] = _words(error)
    else:
        output = output or merged_name(checkpoint, ema=ema)
        spec = dataclasses.replace(spec, checkpoint_path=str(checkpoint.folder), output_path=str(output))
        try:
            find_companions(checkpoint, Path(spec.config_path).expanduser() if spec.config_path else None)
        except (EvaluationError, OSError) as error:
            problems["config_path"] = _words(error)
    if output is not None:
        try:
            check_free(output)
        except (EvaluationError, OSError) as error:
            problems["output_path"] = _words(error)
    for path in (asked.checkpoint_path, asked.output_path, asked.config_path):
        problems = {name: _as_written(problem, path) for name, problem in problems.items()}
    return spec, [Violation(f"spec.{name}", problem) for name, problem in problems.items()]


def _words(error: EvaluationError | OSError) -> str:
    return error.message if isinstance(error, EvaluationError) else f"cannot be looked at ({error.strerror})"


def _as_written(text: str, path: str) -> str:
    """``text`` with ``path`` as the caller wrote it: where a ``~`` leads to is not the caller's to know."""
    home, _, _ = path.partition("/")
    return text.replace(str(Path(home).expanduser()), home) if home.startswith("~") else text
