"""Evaluates checkpoints on the service behind a training loop, whatever loop it is."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lmms_eval_grpc.client import (
    EvalClient,
    EvalServiceError,
    QueueFull,
    ServerUnavailable,
    TooManyJobs,
    TooManySubmissions,
    TooManyWatches,
)
from lmms_eval_grpc.client.dictionaries import has_ended, state_name
from lmms_eval_grpc.client.streams import may_pass
from lmms_eval_grpc.integrations.pins import CannotPin, Pins
from lmms_eval_grpc.integrations.results import (
    Best,
    CheckpointResult,
    MetricScore,
    StepScores,
    find_best,
    read_metrics,
    to_scores,
)
from lmms_eval_grpc.trackers.logs import DEFAULT_LANE
from lmms_eval_grpc.v1 import job_pb2

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
"""Seconds between two attempts to reach a server that is away."""

T = TypeVar("T")


class EvalTracker:
    """Submits checkpoints and collects their scores, on threads of its own: no method but :meth:`drain` waits for the
    server. What goes wrong with an evaluation costs a warning in the log. Threads may share a tracker; of a distributed
    run only one process should have one.

    Example:
        >>> tracker = EvalTracker("localhost:50051", model="qwen2_5_vl", tasks=["mme"])
        >>> for step in range(1, steps + 1):
        ...     train_step()
        ...     if step % 500 == 0:
        ...         tracker.submit(step, save_checkpoint(step))
        ...     for found in tracker.harvest():
        ...         log(found.scores, step=found.step)
        >>> for found in tracker.drain():
        ...     log(found.scores, step=found.step)
    """

    def __init__(
        self,
        client: EvalClient | str,
        *,
        model: str,
        tasks: Sequence[str],
        model_args: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        best_metric: str | None = None,
        greater_is_better: bool | None = None,
        min_delta: float = 0.0,
        outage_timeout: float = 60.0,
        **evaluate_options: Any,
    ) -> None:
        """Checks the address; nothing is dialled before the first checkpoint.

        Args:
            client: A client, or the server's address.
            model: Name of the model backend, as for `EvalClient.evaluate`.
            tasks: What each checkpoint is evaluated on.
            model_args: Further arguments of the backend; ``pretrained`` is the checkpoint's folder.
            labels: Labels of every job; ``step`` is added. The service's own trackers take the name of the training run
                from ``run``.
            best_metric: ``task/metric`` (or ``task/metric,filter``) that tells the best checkpoint.
            greater_is_better: None: as the task says.
            min_delta: By how much a checkpoint must be better to count as better.
            outage_timeout: Seconds without a server after which :meth:`drain` gives an evaluation up. While training
                goes on, none is.
            evaluate_options: Further arguments of `EvalClient.evaluate`, such as ``limit``.

        Raises:
            ValueError: the address is not one.
        """
        if isinstance(client, str):
            self._make_client: Callable[[], EvalClient] | None = lambda: EvalClient(
                client, reconnect_timeout=outage_timeout
            )
            self._client = self._make_client()
        else:
            self._make_client, self._client = None, client
        self._evaluation: dict[str, Any] = {"model": model, "tasks": list(tasks), **evaluate_options}
        self._model_args = dict(model_args or {})
        self._labels = dict(labels or {})
        self._best_metric = best_metric
        self._greater_is_better = greater_is_better
        self._min_delta = min_delta
        self._outage_timeout = outage_timeout
        self._lock = threading.RLock()
        self._draining = threading.Event()
        self._results: list[CheckpointResult] = []
        self._fresh: dict[int, list[MetricScore]] = {}
        """What :meth:`harvest` has not returned yet, by place in ``_results``."""
        self._followers: list[threading.Thread] = []
        self._pins = Pins()
        self._kept_best: Path | None = None

    @property
    def results(self) -> tuple[CheckpointResult, ...]:
        """What is known of every checkpoint by now, in the order in which they were submitted. Any thread may ask."""
        with self._lock:
            return tuple(self._results)

    def submit(
        self,
        step: int,
        checkpoint: str | os.PathLike[str],
        *,
        lane: str = DEFAULT_LANE,
        pin_dir: str | os.PathLike[str] | None = None,
        may_move: bool = False,
        **overrides: Any,
    ) -> str:
        """Queues an evaluation of ``checkpoint`` and returns at once: the folder that the job will read.

        Args:
            step: The training step that the scores belong to.
            checkpoint: A folder that the server sees under the same path, or a URL.
            lane: Names this kind of evaluation where a checkpoint has several: their scores have sections of their own.
            pin_dir: Where a hard-linked copy is kept for the job, so that the checkpoint may be deleted; on the same
                file system. The copy goes when the job has ended, unless it is of the best checkpoint.
            overrides: Arguments of `EvalClient.evaluate` that differ from the tracker's: ``tasks``, ``limit``, ….
        """
        text = os.fspath(checkpoint)
        place = text if "://" in text else str(Path(text).absolute())
        if pin_dir is not None:
            try:
                place = str(self._pins.take(Path(place), Path(pin_dir).absolute(), may_move=may_move))
            except CannotPin as error:
                logger.warning(
                    "step %d: no copy could be kept (%s); if the checkpoint is deleted before its job has run, the job"
                    " fails. Keep more checkpoints, or save them where hard links work",
                    step,
                    error.strerror,
                )
        labels = {**self._labels, "step": str(step), **({} if lane == DEFAULT_LANE else {"lane": lane})}
        request = {
            **self._evaluation,
            **overrides,
            "model_args": {**self._model_args, "pretrained": place},
            "labels": labels,
            "request_id": str(uuid.uuid4()),
        }
        self._draining.clear()
        with self._lock:
            index = len(self._results)
            self._results.append(CheckpointResult(step, place, lane=lane, submitted=time.time()))
            follower = threading.Thread(
                target=self._follow, args=(index, request), name=f"evaluation-{lane}-{step}", daemon=True
            )
            self._followers.append(follower)
        follower.start()
        return place

    def harvest(self) -> list[StepScores]:
        """The scores that came in since the last call, task by task: those of running jobs, too. Never waits."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
            return [
                to_scores(self._results[index].step, self._results[index].lane, metrics)
                for index, metrics in sorted(fresh.items())
            ]

    def drain(self, timeout: float = 600.0) -> list[StepScores]:
        """Waits for what is outstanding, up to ``timeout`` seconds, and returns what :meth:`harvest` would.

        What is late after that goes on, and the warning says which jobs those are.
        """
        self._draining.set()
        deadline = time.monotonic() + timeout
        with self._lock:
            followers, self._followers = self._followers, []
        for follower in followers:
            follower.join(max(0.0, deadline - time.monotonic()))
        late = [result for result in self.results if not result.ended]
        if late:
            jobs = ", ".join(f"step {result.step}: {result.job_id or 'not submitted yet'}" for result in late)
            logger.warning(
                "%d evaluations had not ended %.0f s after training; their jobs go on: %s", len(late), timeout, jobs
            )
        if self._make_client is not None:
            # Those that are late are followed for as long as the process lives. Further checkpoints take a new client.
            if not any(follower.is_alive() for follower in followers):
                self._client.close()
            self._client = self._make_client()
        return self.harvest()

    def best(self) -> Best | None:
        """The best checkpoint by ``best_metric`` so far; None while there is none.

        Raises:
            ValueError: the tracker was made without ``best_metric``.
        """
        if self._best_metric is None:
            raise ValueError("best_metric is not set; name the metric, such as 'mme/score', when the tracker is made")
        return find_best(
            self.results, self._best_metric, greater_is_better=self._greater_is_better, min_delta=self._min_delta
        )

    def _follow(self, index: int, request: Mapping[str, Any]) -> None:
        """Submits one checkpoint and follows its job to the end; runs on a thread of its own."""
        client, step = self._client, self.results[index].step
        try:
            job = self._persist(step, lambda: client.evaluate(**request), self._outage_timeout)
            self._update(index, job_id=job["job_id"], state=job["status"])
            seen = 0

            def watch() -> None:
                nonlocal seen
                for event in client.watch_job(job["job_id"], after_sequence=seen):
                    self._take(index, event)
                    seen = max(seen, event.sequence)

            self._persist(step, watch, 0.0)  # the client itself has tried for as long
            final = self._persist(step, lambda: client.get(job["job_id"]), self._outage_timeout)
            self._update(index, samples_per_second=final.evaluation_result.throughput.samples_per_second)
            for group in final.evaluation_result.group_results:
                self._add_scores(index, read_metrics(group.group, group.metrics))
        except Exception as error:
            # Whatever went wrong with an evaluation, training goes on.
            if self.results[index].ended:
                logger.info("step %d: throughput and groups could not be fetched: %s", step, error)
            else:
                state = "lost" if self.results[index].job_id else "not submitted"
                self._update(index, state=state, error=str(error))
                known = isinstance(error, EvalServiceError)
                logger.warning("evaluation of step %d: %s: %s", step, state, error, exc_info=not known)
        finally:
            self._let_go(index)

    def _persist(self, step: int, call: Callable[[], T], patience: float) -> T:
        """Calls again while the server is away: for ever, or when draining for ``patience`` seconds."""
        away_since: float | None = None
        warned = False
        pause = _FIRST_PAUSE
        while True:
            try:
                return call()
            except EvalServiceError as error:
                if not _may_pass(error):
                    raise
                now = time.monotonic()
                if not warned:
                    warned = True
                    logger.warning("evaluation of step %d waits: %s", step, error)
                if isinstance(error, _BUSY):
                    away_since = None  # it is there, and says so
                else:
                    away_since = now if away_since is None else away_since
                    if self._draining.is_set() and now - away_since >= patience:
                        raise
                wait = max(pause, error.retry_after or 0.0)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if self._draining.is_set():
                time.sleep(min(wait, 1.0))
            else:
                self._draining.wait(wait)

    def _take(self, index: int, event: job_pb2.JobEvent) -> None:
        when = event.event_time.ToNanoseconds() / 1e9
        if event.HasField("task_result"):
            self._add_scores(index, read_metrics(event.task_result.task, event.task_result.metrics))
        elif event.HasField("state_change"):
            change = event.state_change
            state = state_name(change.state)
            if change.state == job_pb2.JOB_STATE_RUNNING:
                self._update(index, state=state, started=when)
            elif has_ended(change.state):
                error = change.error.message or change.reason
                self._update(index, state=state, finished=when, error=error)
                if change.state != job_pb2.JOB_STATE_COMPLETED:
                    result = self.results[index]
                    logger.warning("step %d: job %s %s: %s", result.step, result.job_id, state, error)
            else:
                self._update(index, state=state)

    def _add_scores(self, index: int, scores: Sequence[MetricScore]) -> None:
        """Takes those that are new: a job that was restarted tells some again."""
        with self._lock:
            known = self._results[index].metrics
            new = [score for score in scores if score not in known]
            keys = {score.key for score in new}
            self._update(index, metrics=(*(score for score in known if score.key not in keys), *new))
            if new:
                self._fresh.setdefault(index, []).extend(new)

    def _update(self, index: int, **changes: Any) -> None:
        with self._lock:
            self._results[index] = dataclasses.replace(self._results[index], **changes)

    def _let_go(self, index: int) -> None:
        """Removes the copy of a checkpoint that is needed no more; the best one's stays."""
        needless = [Path(self.results[index].checkpoint)]
        with self._lock:
            best = None if self._best_metric is None else self.best()
            if best is not None and Path(best.result.checkpoint) != self._kept_best:
                if self._kept_best is not None:
                    needless.append(self._kept_best)
                self._kept_best = Path(best.result.checkpoint)
                self._pins.hold(self._kept_best)
        # Not under the lock: large files take their time to go, and the training loop asks for results meanwhile.
        for copy in needless:
            self._pins.release(copy)


_BUSY = (QueueFull, TooManyJobs, TooManySubmissions, TooManyWatches)


def _may_pass(error: EvalServiceError) -> bool:
    """Whether the same call may succeed later. Any may be made again: a job is submitted under one request_id."""
    if isinstance(error, (ServerUnavailable, *_BUSY)):
        return True
    return error.rpc_error is not None and may_pass(error.rpc_error)
