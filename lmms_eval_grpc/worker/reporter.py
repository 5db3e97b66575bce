"""What the engine tells, on its way to the server: into the log, and, not too often, down the socket."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from lmms_eval_grpc.engine.api import ProgressReport, Stage, TaskScore
from lmms_eval_grpc.jobs.results import TaskResult
from lmms_eval_grpc.worker.translate import to_json, to_progress, to_task_result
from lmms_eval_grpc.worker.v1.worker_pb2 import Heartbeat, WorkerEvent

logger = logging.getLogger(__name__)

MIN_INTERVAL = 0.1
"""Least seconds between two progress events of one stage."""
HEARTBEAT_INTERVAL = 2.0
"""Seconds between two signs of life."""


class JobReporter:
    """The engine's :class:`~lmms_eval_grpc.engine.api.Reporter`.

    A progress report that comes too soon after the last is held back until its time has come (:meth:`tick`, called from
    another thread while the engine computes), a newer one replaces it, or something final is said. A change of stage is
    never held back, and nothing that was held back is lost before one. Ticks also bring signs of life, which tell how
    far the engine has come but not what it is at.
    """

    def __init__(
        self,
        send: Callable[[WorkerEvent], None],
        cancelled: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_task_result: Callable[[TaskResult], None] = lambda result: None
        """Called with every task's result, once it is on its way."""
        self._send = send
        self._cancelled = cancelled
        self._clock = clock
        self._lock = threading.Lock()
        self._stage: Stage | None = None
        self._held: ProgressReport | None = None
        self._sent_at = -MIN_INTERVAL
        self._steps = 0
        self._newest: ProgressReport | None = None
        self._beaten_at = clock()
        self._finished = False

    def progress(self, report: ProgressReport) -> None:
        """Sends or holds back."""
        with self._lock:
            steady = dataclasses.replace(report, samples_per_second=0.0)
            if steady != self._newest:
                self._newest = steady
                self._steps += 1
            if report.stage is not self._stage:
                self._flush()
                self._stage = report.stage
                logger.info("stage: %s", report.stage.value)
                self._send_progress(report)
            elif self._clock() - self._sent_at >= MIN_INTERVAL:
                self._send_progress(report)
            else:
                self._held = report

    def task_finished(self, score: TaskScore) -> None:
        """Sends a task's result, after the progress that led to it."""
        result = to_task_result(score)
        for metric in result.metrics:
            logger.info(
                "%s: %s,%s = %.6g (%d samples)",
                result.task,
                metric.name,
                metric.filter,
                metric.value,
                metric.sample_count,
            )
        if result.samples_skipped:
            logger.warning(
                "%s: %d of %d samples were skipped, because the budget of tokens is spent",
                result.task,
                result.samples_skipped,
                result.samples_asked,
            )
        if result.samples_errored:
            logger.warning(
                "%s: %d of %d samples have no score", result.task, result.samples_errored, result.samples_asked
            )
        with self._lock:
            self._steps += 1
            self._flush()
            self._send(WorkerEvent(task_result_json=to_json(result)))
        self.on_task_result(result)

    def moving(self) -> None:
        """Takes note that the job has not come to a halt, though nothing is answered or scored."""
        with self._lock:
            self._steps += 1

    def cancelled(self) -> bool:
        """Whether the engine should stop."""
        return self._cancelled()

    def tick(self) -> None:
        """Sends what was held back, and a sign of life, if their times have come."""
        with self._lock:
            if self._finished:
                return
            now = self._clock()
            if self._held is not None and now - self._sent_at >= MIN_INTERVAL:
                self._flush()
            if now - self._beaten_at >= HEARTBEAT_INTERVAL:
                self._beaten_at = now
                self._send(WorkerEvent(heartbeat=Heartbeat(steps=self._steps)))

    def finish(self, last: WorkerEvent) -> None:
        """Sends what was held back, then the last word. Nothing is sent after it."""
        with self._lock:
            self._flush()
            self._finished = True
            self._send(last)

    def _flush(self) -> None:
        if self._held is not None:
            self._send_progress(self._held)

    def _send_progress(self, report: ProgressReport) -> None:
        self._held = None
        self._sent_at = self._clock()
        self._send(WorkerEvent(progress_json=to_json(to_progress(report))))
