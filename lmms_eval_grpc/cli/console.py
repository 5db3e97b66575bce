"""An evaluation in this process, on the console: its progress, its end by Ctrl-C, and its results."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from lmms_eval_grpc.cli.outcome import show_outcome
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.watchers import Watcher, make_watcher
from lmms_eval_grpc.engine.api import EvaluationOutcome, ProgressReport, TaskScore
from lmms_eval_grpc.scheduler.progress import RemainingTime
from lmms_eval_grpc.server.convert_job import write_evaluation_result, write_progress, write_task_result
from lmms_eval_grpc.v1 import job_pb2
from lmms_eval_grpc.worker import translate

TITLE = "evaluation"


class ConsoleReporter:
    """Shows what the engine tells as ``watch`` shows a job: live bars on a terminal, else lines beside the result."""

    def __init__(self, watcher: Watcher | None) -> None:
        """Without a ``watcher`` nothing is shown."""
        self.interrupted = False
        self._watcher = watcher
        self._remaining = RemainingTime()
        self._show(job_pb2.JobEvent(state_change=job_pb2.StateChange(state=job_pb2.JOB_STATE_RUNNING)))

    def progress(self, report: ProgressReport) -> None:
        progress = self._remaining.complete(translate.to_progress(report))
        self._show(job_pb2.JobEvent(progress=write_progress(progress)))

    def task_finished(self, score: TaskScore) -> None:
        self._show(job_pb2.JobEvent(task_result=write_task_result(translate.to_task_result(score))))

    def cancelled(self) -> bool:
        return self.interrupted

    def _show(self, event: job_pb2.JobEvent) -> None:
        if self._watcher is not None:
            event.event_time.FromNanoseconds(time.time_ns())
            self._watcher.show_event(event)


@contextlib.contextmanager
def reporting(output: Output, title: str = TITLE) -> Iterator[ConsoleReporter]:
    """A reporter on what ``title`` names.

    While the block lasts the first Ctrl-C or SIGTERM asks the engine to stop, and a second stops at once.
    """
    watcher: Watcher | None = None
    if not output.as_json:
        watcher = make_watcher(output, title, output.remark)
    with watcher or contextlib.nullcontext():
        reporter = ConsoleReporter(watcher)

        def interrupt(number: int, frame: FrameType | None) -> None:
            if reporter.interrupted:
                raise KeyboardInterrupt
            reporter.interrupted = True
            output.remark("stopping soon; once more stops at once")

        # A signal that the parent had ignored stays ignored.
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        usual = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in usual:
            signal.signal(number, interrupt)
        try:
            yield reporter
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)


def show_results(outcome: EvaluationOutcome, output: Output) -> None:
    """The tables of results, as ``watch`` prints them; as JSON the results document."""
    if output.as_json:
        output.document(outcome.results_document)
        return
    result = write_evaluation_result(translate.to_result(outcome))
    result.ClearField("results_path")  # the caller knows whether the file stays
    show_outcome(job_pb2.Job(state=job_pb2.JOB_STATE_COMPLETED, evaluation_result=result), output)


def start_log(verbosity: str) -> None:
    """Sends what the engine logs to stderr; other libraries' messages only where they are warnings."""
    level = logging.getLevelName(verbosity)
    logging.basicConfig(
        stream=sys.stderr,
        level=level if verbosity == "DEBUG" else max(level, logging.WARNING),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    logging.getLogger("lmms_eval_grpc").setLevel(level)
    logging.captureWarnings(True)
    if not sys.stderr.isatty():
        # Bars that redraw themselves are noise in a file. Read by the libraries when they are imported.
        for variable in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(variable, "1")
