"""Evaluates the checkpoints of a Hugging Face ``Trainer`` on the service, while training goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmms_eval_grpc.client import EvalClient
from lmms_eval_grpc.integrations.lanes import Lane, fast_lane
from lmms_eval_grpc.integrations.reporting import open_logs
from lmms_eval_grpc.integrations.results import Best, CheckpointResult, MetricScore, StepScores
from lmms_eval_grpc.integrations.tracker import EvalTracker
from lmms_eval_grpc.trackers.logs import DEFAULT_LANE, ScoreLogs

__all__ = ["CheckpointResult", "EvalServiceCallback", "MetricScore"]

logger = logging.getLogger(__name__)

PINS = "pinned-checkpoints"
"""Folder, in the Trainer's, of checkpoints that are kept for their jobs."""
FAST_LANE = "fast"


class EvalServiceCallback(TrainerCallback):  # type: ignore[misc]
    """Submits checkpoints that the Trainer saves, and brings the scores back.

    A save costs the training no more than starting a thread: submitting and watching happen behind it. Scores appear
    as ``eval_service/<task>/<metric>`` (the fast lane's as ``eval_service_fast/…``), task by task, with the step of
    their checkpoint: in the Trainer's ``log_history`` and in TensorBoard, Weights & Biases and MLflow where
    ``report_to`` names them. When training ends, the callback waits for what is outstanding. A server that is away
    costs a warning, never the training; what could not be submitted is, once it is back. In a distributed run only the
    first process talks.
    """

    def __init__(
        self,
        client: EvalClient | str,
        *,
        model: str,
        tasks: Sequence[str],
        model_args: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        fast_tasks: Sequence[str] = (),
        fast_limit: int | float | None = 64,
        fast_every_steps: int | None = None,
        best_metric: str | None = None,
        greater_is_better: bool | None = None,
        early_stopping_patience: int | None = None,
        early_stopping_threshold: float = 0.0,
        drain_timeout: float = 600.0,
        outage_timeout: float = 60.0,
        **evaluate_options: Any,
    ) -> None:
        """Checks the settings; nothing is dialled before the first checkpoint.

        Args:
            client: A client, or the server's address.
            model: Name of the model backend, as for `EvalClient.evaluate`.
            tasks: What each checkpoint is evaluated on.
            model_args: Further arguments of the backend; ``pretrained`` is the checkpoint's folder.
            labels: Labels of every job; ``step`` is added.
            every_steps: Save and evaluate after so many steps. None, like ``every_epochs``: evaluate what the Trainer
                saves by its own ``save_strategy``.
            every_epochs: Save and evaluate after so many epochs.
            fast_tasks: Sentinel tasks of a fast lane, whose jobs go before the others. Empty: no fast lane.
            fast_limit: Documents of each sentinel task.
            fast_every_steps: Save and evaluate them after so many steps. None: at every save.
            best_metric: ``task/metric`` of ``tasks`` by which checkpoints are compared.
            greater_is_better: None: as the task says.
            early_stopping_patience: Training stops when so many later checkpoints were not better. None: it does not.
            early_stopping_threshold: By how much a checkpoint must be better to count as better.
            drain_timeout: Seconds that the end of training waits for outstanding results.
            outage_timeout: Seconds of these that it waits for a server that is away.
            evaluate_options: Further arguments of `EvalClient.evaluate`, such as ``limit``.

        Raises:
            ValueError: the address is not one, or settings do not fit together.
        """
        if early_stopping_patience is not None and (best_metric is None or early_stopping_patience < 1):
            raise ValueError("early_stopping_patience needs a best_metric, such as 'mme/score', and is at least 1")
        self._lanes = {DEFAULT_LANE: Lane(every_steps, every_epochs)}
        if fast_tasks:
            self._lanes[FAST_LANE] = fast_lane(fast_tasks, fast_limit, fast_every_steps)
        self._tracker = EvalTracker(
            client,
            model=model,
            tasks=tasks,
            model_args=model_args,
            labels=labels,
            best_metric=best_metric,
            greater_is_better=greater_is_better,
            min_delta=early_stopping_threshold,
            outage_timeout=outage_timeout,
            **evaluate_options,
        )
        self._patience = early_stopping_patience
        self._drain_timeout = drain_timeout
        self._due: set[str] = set()
        self._logs: ScoreLogs | None = None

    @property
    def results(self) -> tuple[CheckpointResult, ...]:
        """What is known of every checkpoint by now, in the order in which they were saved. Any thread may ask."""
        return self._tracker.results

    @property
    def best(self) -> Best | None:
        """The best checkpoint by ``best_metric`` so far, which is kept under ``best.result.checkpoint`` even where
        ``save_total_limit`` has the Trainer delete it. Raises ValueError without ``best_metric``."""
        return self._tracker.best()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Logs what has come in, and asks for a checkpoint where one is due."""
        self._expect({name for name, lane in self._lanes.items() if lane.due_after_step(state.global_step)}, control)
        if state.is_world_process_zero:
            self._log(self._tracker.harvest(), args, state)
            if args.world_size == 1 and self._should_stop():
                control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for a checkpoint where one is due."""
        epoch = round(state.epoch or 0.0)
        self._expect({name for name, lane in self._lanes.items() if lane.due_after_epoch(epoch)}, control)

    def _expect(self, lanes: set[str], control: TrainerControl) -> None:
        # In every process of a distributed run: all of them save.
        if lanes:
            self._due |= lanes
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Submits the checkpoint that was just saved, to the lanes that are due."""
        due, self._due = self._due, set()
        if args.world_size > 1 and _agree(self._patience is not None and self._should_stop(), args):
            control.should_training_stop = True
        if not state.is_world_process_zero:
            return
        step = state.global_step
        folder = Path(args.output_dir).absolute() / f"checkpoint-{step}"
        known = {result.lane for result in self.results if result.step == step}
        for name, lane in self._lanes.items():
            if name in due or (lane.at_every_save and name not in known):
                pins = None if args.save_total_limit is None else folder.parent / PINS
                self._tracker.submit(step, folder, lane=name, pin_dir=pins, **lane.options)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Waits for the outstanding results and logs them."""
        if not state.is_world_process_zero:
            return
        self._log(self._tracker.drain(self._drain_timeout), args, state)
        if self._logs is not None:
            self._logs.close()
            self._logs = None

    def _log(self, found: Sequence[StepScores], args: TrainingArguments, state: TrainerState) -> None:
        if self._logs is None:
            # At the first step: the Trainer's own trackers are open by then, and by the end some are closed.
            self._logs = open_logs(args.report_to or (), args.output_dir)
        for item in found:
            state.log_history.append({**item.scores, "step": item.step})
            logger.info("step %d: %s", item.step, dict(item.scores))
            self._logs.log(item.step, item.scores)

    def _should_stop(self) -> bool:
        if self._patience is None:
            return False
        best = self._tracker.best()
        if best is None or best.later < self._patience:
            return False
        logger.warning(
            "training stops: %d checkpoints after step %d were no better than its %g",
            best.later,
            best.result.step,
            best.value,
        )
        return True


def _agree(stop: bool, args: TrainingArguments) -> bool:
    """What the first process says, in all of them: one that stopped alone would leave the others waiting for it."""
    if not torch.distributed.is_initialized():
        return stop
    said = torch.tensor([int(stop)], device=args.device)
    torch.distributed.broadcast(said, src=0)
    return bool(said.item())
