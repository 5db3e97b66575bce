"""What a merge that is asked for comes down to, from the names of the files that are there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.checkpoints.companions import find_companions
from lmms_eval_grpc.engine.checkpoints.layouts import find_shards, merged_name
from lmms_eval_grpc.engine.checkpoints.staging import check_free
from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.jobs.spec import CheckpointKind, MergeSpec


def settle_merge(spec: MergeSpec) -> tuple[MergeSpec, list[Violation]]:
    """``spec`` with the checkpoint and the output that it means, and what keeps it from being merged.

    The newest of several checkpoints is settled now, so that the job merges that one however long it waits. The paths
    of ``spec`` must be absolute.
    """
    ema = spec.checkpoint_kind is CheckpointKind.EMA
    violations = []
    output = Path(spec.output_path).expanduser() if spec.output_path else None
    try:
        checkpoint = find_shards(Path(spec.checkpoint_path).expanduser(), ema=ema)
    except EvaluationError as error:
        violations.append(Violation("spec.checkpoint_path", error.message))
    else:
        output = output or merged_name(checkpoint, ema=ema)
        spec = dataclasses.replace(spec, checkpoint_path=str(checkpoint.folder), output_path=str(output))
        try:
            find_companions(checkpoint, Path(spec.config_path).expanduser() if spec.config_path else None)
        except EvaluationError as error:
            violations.append(Violation("spec.config_path", error.message))
    if output is not None:
        try:
            check_free(output)
        except (EvaluationError, OSError) as error:
            violations.append(Violation("spec.output_path", str(error)))
    return spec, violations
