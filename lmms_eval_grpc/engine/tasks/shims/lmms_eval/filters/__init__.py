"""``lmms_eval.filters``: base classes of tasks' own filters."""

from lmms_eval_grpc.engine.tasks.shims.lmms_eval.api.filter import Filter

__all__ = ["Filter"]
