"""What the engine tells, on its way to the server: into the log, and, not too often, down the socket."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lmms_eval_grpc.engine.api import ProgressReport, Stage, TaskScore
from lmms_eval_grpc.worker.translate import to_json, to_progress, to_task_result
from lmms_eval_grpc.worker.v1.worker_pb2 import WorkerEvent

logger = logging.getLogger(__name__)

MIN_INTERVAL = 0.1
"""Least seconds between two progress events of one stage."""


class JobReporter:
    """The engine's :class:`~lmms_eval_grpc.engine.api.Reporter`.

    A progress report that comes too soon after the last is held back until its time has come (:meth:`flush_due`, called
    from another thread while the engine computes), a newer one replaces it, or something final is said. A change of
    stage is never held back, and nothing that was held back is lost before one.
    """

    def __init__(
        self,
        send: Callable[[WorkerEvent], None],
        cancelled: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._cancelled = cancelled
        self._clock = clock
        self._lock = threading.Lock()
        self._stage: Stage | None = None
        self._held: ProgressReport | None = None
        self._sent_at = -MIN_INTERVAL

    def progress(self, report: ProgressReport) -> None:
        """Sends or holds back."""
        with self._lock:
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
            self._flush()
            self._send(WorkerEvent(task_result_json=to_json(result)))

    def cancelled(self) -> bool:
        """Whether the engine should stop."""
        return self._cancelled()

    def flush_due(self) -> None:
        """Sends what was held back, if its time has come."""
        with self._lock:
            if self._held is not None and self._clock() - self._sent_at >= MIN_INTERVAL:
                self._flush()

    def finish(self, last: WorkerEvent) -> None:
        """Sends what was held back, then the last word. Nothing is sent after it."""
        with self._lock:
            self._flush()
            self._send(last)

    def _flush(self) -> None:
        if self._held is not None:
            self._send_progress(self._held)

    def _send_progress(self, report: ProgressReport) -> None:
        self._held = None
        self._sent_at = self._clock()
        self._send(WorkerEvent(progress_json=to_json(to_progress(report))))
