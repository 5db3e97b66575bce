"""Jobs that merge a checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from lmms_eval_grpc.jobs.results import MergeResult
from lmms_eval_grpc.jobs.spec import CheckpointKind, MergeSpec
from lmms_eval_grpc.worker import translate
from lmms_eval_grpc.worker.ahead import check_paths
from lmms_eval_grpc.worker.reporter import JobReporter
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob, WorkerEvent

logger = logging.getLogger(__name__)

RECEIPT = "merge.json"
"""In the job's folder: which folder the merged checkpoint is, for an attempt that follows one that was done."""


def merge(spec: MergeSpec, job: RunJob, job_dir: Path, reporter: JobReporter) -> WorkerEvent:
    """Merges a checkpoint. Raises EvaluationError and EvaluationCancelled as the engine does."""
    # Imported here, because a worker without a warm template pays seconds for it and has said by now that it runs.
    import torch

    from lmms_eval_grpc.engine.checkpoints.merge import merge_checkpoint

    check_paths(job, spec)
    if job.torch_threads:
        torch.set_num_threads(job.torch_threads)
    logger.info("merging the %s weights of %s", spec.checkpoint_kind.value, spec.checkpoint_path)
    merged = merge_checkpoint(
        Path(spec.checkpoint_path).expanduser(),
        Path(spec.output_path).expanduser() if spec.output_path else None,
        reporter,
        ema=spec.checkpoint_kind is CheckpointKind.EMA,
        config_path=Path(spec.config_path).expanduser() if spec.config_path else None,
        max_shard_bytes=spec.max_shard_bytes,
        receipt=job_dir / RECEIPT,
    )
    result = MergeResult(merged.folder, merged.size_bytes, merged.tensors, merged.files)
    return WorkerEvent(completed_json=translate.to_json(result))
