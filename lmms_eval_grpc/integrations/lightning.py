"""Evaluates a Lightning module on the service, while training goes on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lmms_eval_grpc.client import EvalClient
from lmms_eval_grpc.integrations.lanes import Lane, fast_lane
from lmms_eval_grpc.integrations.results import Best, CheckpointResult, StepScores
from lmms_eval_grpc.integrations.tracker import EvalTracker
from lmms_eval_grpc.trackers.logs import DEFAULT_LANE

logger = logging.getLogger(__name__)

FAST_LANE = "fast"


class EvalServiceCallback(pl.Callback):  # type: ignore[misc]
    """Exports the model at intervals, submits it, and brings the scores back into the Trainer's loggers.

    Lightning's own checkpoints are no model folders, so that ``export`` writes one; it is removed when its jobs have
    ended, unless it is the best. Scores are logged as ``eval_service/<task>/<metric>`` at the step that they belong to,
    task by task. Nothing but the export takes time of a step. A server that is away costs a warning, never the
    training. In a distributed run only the first process exports and talks.

    Example:
        >>> def export(module, folder):
        ...     module.model.save_pretrained(folder)
        ...     processor.save_pretrained(folder)
        >>> EvalServiceCallback("localhost:50051", export, model="qwen2_5_vl", tasks=["mme"], folder="runs/7/exports",
        ...                     every_steps=500)
    """

    def __init__(
        self,
        client: EvalClient | str,
        export: Callable[[Any, Path], object],
        *,
        folder: str | Path,
        model: str,
        tasks: Sequence[str],
        every_steps: int | None = None,
        every_epochs: int | None = None,
        fast_tasks: Sequence[str] = (),
        fast_limit: int | float | None = 64,
        fast_every_steps: int | None = None,
        best_metric: str | None = None,
        early_stopping_patience: int | None = None,
        drain_timeout: float = 600.0,
        **tracker_options: Any,
    ) -> None:
        """Checks the settings; nothing is dialled before the first export.

        Args:
            client: A client, or the server's address.
            export: Writes what ``from_pretrained`` reads: called with the Lightning module and an empty folder.
            folder: Where exports lie until their jobs have ended; the server sees it under the same path.
            model: Name of the model backend, as for `EvalClient.evaluate`.
            tasks: What each export is evaluated on.
            every_steps: Optimizer steps from one evaluation to the next.
            every_epochs: Epochs from one to the next. One of the two must be set.
            fast_tasks: Sentinel tasks of a fast lane, whose jobs go before the others. Empty: no fast lane.
            fast_limit: Documents of each sentinel task.
            fast_every_steps: Steps from one fast evaluation to the next. None: as the full ones.
            best_metric: ``task/metric`` of ``tasks`` by which exports are compared.
            early_stopping_patience: Training stops when so many later exports were not better. None: it does not.
            drain_timeout: Seconds that the end of training waits for outstanding results.
            tracker_options: Further arguments of :class:`EvalTracker`, and of `EvalClient.evaluate`.

        Raises:
            ValueError: the address is not one, or settings do not fit together.
        """
        if every_steps is None and every_epochs is None:
            raise ValueError("neither every_steps nor every_epochs is set; say how often to evaluate")
        if early_stopping_patience is not None and (best_metric is None or early_stopping_patience < 1):
            raise ValueError("early_stopping_patience needs a best_metric, such as 'mme/score', and is at least 1")
        self._lanes = {DEFAULT_LANE: Lane(every_steps, every_epochs)}
        if fast_tasks:
            fast = fast_lane(fast_tasks, fast_limit, fast_every_steps or every_steps)
            self._lanes[FAST_LANE] = fast if not fast.at_every_save else Lane(None, every_epochs, fast.options)
        self._tracker = EvalTracker(client, model=model, tasks=tasks, best_metric=best_metric, **tracker_options)
        self._export = export
        self._folder = Path(folder).absolute()
        self._patience = early_stopping_patience
        self._drain_timeout = drain_timeout
        self._last_step = 0

    @property
    def results(self) -> tuple[CheckpointResult, ...]:
        """What is known of every export by now, in their order. Any thread may ask."""
        return self._tracker.results

    @property
    def best(self) -> Best | None:
        """The best export by ``best_metric`` so far, kept under ``best.result.checkpoint``. Raises ValueError without
        ``best_metric``."""
        return self._tracker.best()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs what has come in, and exports where that is due."""
        step = trainer.global_step
        if step == self._last_step:  # gradients accumulate
            return
        self._last_step = step
        self._submit(
            trainer, pl_module, {name: lane for name, lane in self._lanes.items() if lane.due_after_step(step)}
        )
        if trainer.is_global_zero:
            self._log(trainer, self._tracker.harvest())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Exports where that is due."""
        epoch = trainer.current_epoch + 1
        due = {name: lane for name, lane in self._lanes.items() if lane.due_after_epoch(epoch)}
        self._submit(trainer, pl_module, due)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Waits for the outstanding results and logs them."""
        if trainer.is_global_zero:
            self._log(trainer, self._tracker.drain(self._drain_timeout))

    def _submit(self, trainer: Any, pl_module: Any, lanes: Mapping[str, Lane]) -> None:
        if not lanes:
            return
        if self._patience is not None:
            best = self._tracker.best() if trainer.is_global_zero else None
            stop = best is not None and best.later >= self._patience
            # All processes have to stop at the same step.
            trainer.should_stop = trainer.should_stop or trainer.strategy.reduce_boolean_decision(stop, all=False)
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        draft = self._folder / "draft" / f"step-{step}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        self._export(pl_module, draft)
        read = {
            self._tracker.submit(step, draft, lane=name, pin_dir=self._folder, may_move=True, **lane.options)
            for name, lane in lanes.items()
        }
        if str(draft) not in read:
            shutil.rmtree(draft, ignore_errors=True)  # the jobs have links of their own, or the files themselves

    def _log(self, trainer: Any, found: Sequence[StepScores]) -> None:
        for item in found:
            for log in trainer.loggers:
                try:
                    log.log_metrics(dict(item.scores), step=item.step)
                except Exception as error:
                    words = "scores of step %d are not in %s: %s: %s"
                    logger.warning(words, item.step, type(log).__name__, type(error).__name__, error)
