"""Tells trackers the results of a job as they come, on a thread of its own: a tracker never holds the evaluation up for
long, and never fails it."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lmms_eval_grpc.jobs.results import Metric
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.trackers import RunInfo, ScoreLogs, metric_key, open_log, parse_tracker, score_name
from lmms_eval_grpc.trackers.logs import DEFAULT_LANE
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob

logger = logging.getLogger(__name__)

CLOSING_TIMEOUT = 60.0
"""Seconds that the end of a job waits for its trackers."""
STOPPED_TIMEOUT = 0.5
"""Seconds of these that are left once the job is to stop: well below the grace after which an executor kills its
worker, because what the worker has to say is then lost, the result of a job that was complete with it."""
_LOOK_INTERVAL = 0.1
_STEP = re.compile(r"-?\d{1,18}")


class JobTracking:
    """The trackers that a job names. Without any, nothing is started."""

    def __init__(self, spec: EvaluationSpec, job: RunJob, *, closing_timeout: float = CLOSING_TIMEOUT) -> None:
        self._names = spec.track
        self._lane = job.labels.get("lane") or DEFAULT_LANE
        self._info = _describe(spec, job)
        self._closing_timeout = closing_timeout
        self._scores: queue.SimpleQueue[Mapping[str, float] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)
        if self._names:
            self._thread.start()

    def tell(self, task: str, metrics: Iterable[Metric]) -> None:
        """Takes the metrics of a task or a group; does not wait."""
        if self._names:
            self._scores.put({score_name(self._lane, task, metric_key(m.name, m.filter)): m.value for m in metrics})

    def close(self, moving: Callable[[], None] = lambda: None, stop_asked: Callable[[], bool] = lambda: False) -> None:
        """Waits until all is told, but not for ever, and hardly once ``stop_asked``. ``moving`` is called now and then
        meanwhile."""
        if not self._names:
            return
        self._scores.put(None)
        began = time.monotonic()
        deadline = began + self._closing_timeout
        stopping = False
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            if stop_asked() and not stopping:
                stopping = True
                deadline = min(deadline, time.monotonic() + STOPPED_TIMEOUT)
            self._thread.join(min(left, _LOOK_INTERVAL))
            moving()
        if self._thread.is_alive():
            waited, names = time.monotonic() - began, ", ".join(self._names)
            logger.warning("the trackers were not done after %.0f s and are left: %s", waited, names)

    def _work(self) -> None:
        logs = ScoreLogs()
        for name in self._names:
            try:
                logs.add(open_log(parse_tracker(name), self._info))
            except Exception as error:
                logger.warning("%s is not told the results: %s: %s", name, type(error).__name__, error)
        while (scores := self._scores.get()) is not None:
            logs.log(self._info.step, scores)
        logs.close()


def _describe(spec: EvaluationSpec, job: RunJob) -> RunInfo:
    step = job.labels.get("step", "")
    return RunInfo(
        job_id=job.job_id,
        run=job.labels.get("run") or job.job_id,
        step=int(step) if _STEP.fullmatch(step) else None,
        job_dir=Path(job.job_dir),
        config={"job_id": job.job_id, "model": spec.model, "tasks": ", ".join(spec.tasks), **job.labels},
    )
