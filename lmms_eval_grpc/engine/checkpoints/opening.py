"""Which reader the shards of a checkpoint need."""

from __future__ import annotations

from lmms_eval_grpc.engine.checkpoints.dcp import DistributedCheckpoint
from lmms_eval_grpc.engine.checkpoints.layouts import ShardedCheckpoint, ShardFormat
from lmms_eval_grpc.engine.checkpoints.rank_files import RankFiles
from lmms_eval_grpc.engine.checkpoints.shards import Shards


def open_shards(checkpoint: ShardedCheckpoint) -> Shards:
    """A reader of the checkpoint's format.

    Raises:
        EvaluationError: ``SHARDS_UNREADABLE``: files are missing, damaged, or say something that is not understood.
    """
    if checkpoint.format is ShardFormat.DISTRIBUTED_CHECKPOINT:
        return DistributedCheckpoint(checkpoint.shards)
    return RankFiles(checkpoint.shards)
