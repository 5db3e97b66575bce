"""A reporter that remembers what it was told and cancels on demand."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmms_eval_grpc.engine.api import ProgressReport, TaskScore


@dataclass
class Recorder:
    cancel_at: int | None = None
    """Ask for a stop once this many samples are done; None: never."""
    reports: list[ProgressReport] = field(default_factory=list)
    scores: list[TaskScore] = field(default_factory=list)

    def progress(self, report: ProgressReport) -> None:
        self.reports.append(report)

    def task_finished(self, score: TaskScore) -> None:
        self.scores.append(score)

    def cancelled(self) -> bool:
        return self.cancel_at is not None and bool(self.reports) and self.reports[-1].samples_done >= self.cancel_at
