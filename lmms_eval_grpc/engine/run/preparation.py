"""What of an evaluation comes before its model: tasks, the documents they run on, the run to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.record.baseline import Baseline, load_baseline
from lmms_eval_grpc.engine.tasks.load import LoadedTasks, load


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything that can be had before there is a model or a device."""

    loaded: LoadedTasks
    doc_ids: Mapping[str, Sequence[int]]
    """The documents to run on, by task."""
    baseline: Baseline | None
    """None: there is nothing to compare with."""

    @property
    def samples_total(self) -> int:
        return sum(map(len, self.doc_ids.values()))


def prepare(config: EvaluationConfig, loaded: LoadedTasks | None = None) -> Preparation:
    """Reads what ``config`` names; ``loaded`` are its tasks where the caller has them already.

    Raises :class:`EvaluationError` as :func:`~lmms_eval_grpc.engine.tasks.load.load` does, or ``BASELINE_UNREADABLE``.
    """
    loaded = load(config) if loaded is None else loaded
    doc_ids = {task.name: task.doc_ids(config.limit, config.offset) for task in loaded.tasks}
    baseline = load_baseline(config.baseline, loaded.tasks, doc_ids) if config.baseline else None
    return Preparation(loaded, doc_ids, baseline)
