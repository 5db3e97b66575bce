"""Evaluates every checkpoint of a Hugging Face ``Trainer`` on the service, while training goes on."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmms_eval_grpc.client import EvalClient, EvalServiceError
from lmms_eval_grpc.client.dictionaries import has_ended, state_name
from lmms_eval_grpc.v1 import job_pb2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetricScore:
    """One metric of one task at one checkpoint."""

    task: str
    name: str
    filter: str
    value: float
    standard_error: float | None
    lower: float | None
    """Lower end of the 95 % interval; None when there is none."""
    upper: float | None


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """What became of one checkpoint. Times are seconds since the epoch, 0 while they have not come."""

    step: int
    checkpoint: str
    job_id: str = ""
    state: str = "submitting"
    """``submitting``, a state of the job in lower case, or ``not submitted`` and ``lost`` when the server was away."""
    metrics: tuple[MetricScore, ...] = ()
    submitted: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    samples_per_second: float = 0.0
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("completed", "failed", "cancelled", "not submitted", "lost")


class EvalServiceCallback(TrainerCallback):  # type: ignore[misc]
    """Submits each checkpoint that the Trainer saves, and brings the scores back.

    A save costs the training no more than starting a thread: submitting and watching happen behind it. Scores appear
    in the Trainer's ``log_history`` as ``eval_service/<task>/<metric>`` with the step of their checkpoint. When
    training ends, the callback waits for what is outstanding. A server that is away costs a warning, never the
    training. In a distributed run only the first process submits.
    """

    def __init__(
        self,
        client: EvalClient | str,
        *,
        model: str,
        tasks: Sequence[str],
        model_args: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        drain_timeout: float = 600.0,
        **evaluate_options: Any,
    ) -> None:
        """Checks the address; nothing is dialled before the first checkpoint.

        Args:
            client: A client, or the server's address.
            model: Name of the model backend, as for `EvalClient.evaluate`.
            tasks: What each checkpoint is evaluated on.
            model_args: Further arguments of the backend; ``pretrained`` is the checkpoint's folder.
            labels: Labels of every job; ``step`` is added.
            drain_timeout: Seconds that the end of training waits for outstanding results.
            evaluate_options: Further arguments of `EvalClient.evaluate`, such as ``limit``.

        Raises:
            ValueError: the address is not one.
        """
        self._client = EvalClient(client) if isinstance(client, str) else client
        self._address = client if isinstance(client, str) else None
        self._evaluation: dict[str, Any] = {"model": model, "tasks": list(tasks), **evaluate_options}
        self._model_args = dict(model_args or {})
        self._labels = dict(labels or {})
        self._drain_timeout = drain_timeout
        self._lock = threading.Lock()
        self._results: list[CheckpointResult] = []
        self._logged: set[int] = set()
        self._followers: list[threading.Thread] = []

    @property
    def results(self) -> tuple[CheckpointResult, ...]:
        """What is known of every checkpoint by now, in the order in which they were saved. Any thread may ask."""
        with self._lock:
            return tuple(self._results)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Submits the checkpoint that was just saved."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir).absolute() / f"checkpoint-{state.global_step}"
        with self._lock:
            index = len(self._results)
            self._results.append(CheckpointResult(state.global_step, str(folder)))
        follower = threading.Thread(
            target=self._follow, args=(index,), name=f"evaluation-{state.global_step}", daemon=True
        )
        self._followers.append(follower)
        follower.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Logs what has come in."""
        self._log_finished(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Waits for the outstanding results and logs them."""
        deadline = time.monotonic() + self._drain_timeout
        for follower in self._followers:
            follower.join(max(0.0, deadline - time.monotonic()))
        self._followers.clear()
        self._log_finished(state)
        late = [result for result in self.results if not result.ended]
        if late:
            jobs = ", ".join(f"step {result.step}: {result.job_id or 'not submitted yet'}" for result in late)
            logger.warning(
                "%d evaluations had not ended %.0f s after training; their jobs go on: %s",
                len(late),
                self._drain_timeout,
                jobs,
            )
        if self._address is not None:
            # Those that are late are followed for as long as the process lives. Training again takes a new client.
            if not late:
                self._client.close()
            self._client = EvalClient(self._address)

    def _follow(self, index: int) -> None:
        """Submits one checkpoint and follows its job to the end; runs on a thread of its own."""
        client, result = self._client, self.results[index]
        self._update(index, submitted=time.time())
        try:
            job = client.evaluate(
                **self._evaluation,
                model_args={**self._model_args, "pretrained": result.checkpoint},
                labels={**self._labels, "step": str(result.step)},
            )
            self._update(index, job_id=job["job_id"], state=job["status"])
            for event in client.watch_job(job["job_id"]):
                self._take(index, event)
            final = client.get(job["job_id"])
            self._update(index, samples_per_second=final.evaluation_result.throughput.samples_per_second)
        except Exception as error:
            # Whatever went wrong with an evaluation, training goes on.
            if self.results[index].ended:
                logger.info("step %d: the throughput could not be fetched: %s", result.step, error)
                return
            state = "lost" if self.results[index].job_id else "not submitted"
            self._update(index, state=state, error=str(error))
            known = isinstance(error, EvalServiceError)
            logger.warning("evaluation of step %d: %s: %s", result.step, state, error, exc_info=not known)

    def _take(self, index: int, event: job_pb2.JobEvent) -> None:
        when = event.event_time.ToNanoseconds() / 1e9
        if event.HasField("task_result"):
            scores = tuple(_read_metric(event.task_result.task, metric) for metric in event.task_result.metrics)
            kept = tuple(m for m in self.results[index].metrics if m.task != event.task_result.task)
            self._update(index, metrics=(*kept, *scores))
        elif event.HasField("state_change"):
            change = event.state_change
            state = state_name(change.state)
            if change.state == job_pb2.JOB_STATE_RUNNING:
                self._update(index, state=state, started=when)
            elif has_ended(change.state):
                self._update(index, state=state, finished=when, error=change.error.message or change.reason)
            else:
                self._update(index, state=state)

    def _update(self, index: int, **changes: Any) -> None:
        with self._lock:
            self._results[index] = dataclasses.replace(self._results[index], **changes)

    def _log_finished(self, state: TrainerState) -> None:
        for index, result in enumerate(self.results):
            if not result.ended or index in self._logged:
                continue
            self._logged.add(index)
            if result.state != "completed":
                logger.warning("step %d: job %s %s: %s", result.step, result.job_id, result.state, result.error)
                continue
            names = {f"eval_service/{m.task}/{_metric_key(m)}": m.value for m in result.metrics}
            state.log_history.append({**names, "step": result.step})
            logger.info("step %d: %s", result.step, names)


def _metric_key(metric: MetricScore) -> str:
    return metric.name if metric.filter == "none" else f"{metric.name},{metric.filter}"


def _read_metric(task: str, metric: job_pb2.Metric) -> MetricScore:
    has_interval = metric.HasField("confidence_interval")
    return MetricScore(
        task=task,
        name=metric.name,
        filter=metric.filter,
        value=metric.value,
        standard_error=metric.standard_error if metric.HasField("standard_error") else None,
        lower=metric.confidence_interval.lower if has_interval else None,
        upper=metric.confidence_interval.upper if has_interval else None,
    )
