"""Trackers never hold a job up for long, and never fail it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.results import Metric
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.trackers import RunInfo, TrackerName
from lmms_eval_grpc.worker import tracking
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob

SPEC = EvaluationSpec(model="m", tasks=("t",), track=("wandb:p", "mlflow:e"))
METRIC = Metric(name="acc", filter="strict", value=0.5)


class Log:
    def __init__(self) -> None:
        self.told: list[object] = []

    def log(self, step: int | None, scores: object) -> None:
        self.told.append((step, scores))

    def close(self) -> None:
        self.told.append("closed")


def run_job(tmp_path: Path, **labels: str) -> RunJob:
    return RunJob(job_id="job-1", job_dir=str(tmp_path), labels=labels)


@pytest.mark.parametrize(
    ("labels", "run", "step", "name"),
    [
        ({"run": "sft", "step": "1200"}, "sft", 1200, "eval_service/t/acc,strict"),
        ({"step": "12.5", "lane": "fast"}, "job-1", None, "eval_service_fast/t/acc,strict"),
        ({}, "job-1", None, "eval_service/t/acc,strict"),
    ],
)
def test_run_step_and_names_come_from_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str], run: str, step: int | None, name: str
) -> None:
    log, seen = Log(), []

    def open_log(tracker: TrackerName, info: RunInfo) -> Log:
        if tracker.kind == "mlflow":
            raise ConnectionError("nobody answers")
        seen.append(info)
        return log

    monkeypatch.setattr(tracking, "open_log", open_log)
    told = tracking.JobTracking(SPEC, run_job(tmp_path, **labels))
    told.tell("t", [METRIC])
    told.close()
    assert (seen[0].run, seen[0].step) == (run, step)
    assert log.told == [(step, {name: 0.5}), "closed"]


def test_a_tracker_that_hangs_is_left_after_a_while_and_the_job_counts_as_moving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def hang(tracker: TrackerName, info: RunInfo) -> Log:
        release.wait(60)
        return Log()

    monkeypatch.setattr(tracking, "open_log", hang)
    told = tracking.JobTracking(SPEC, run_job(tmp_path), closing_timeout=0.2)
    told.tell("t", [METRIC])
    moved = []
    told.close(lambda: moved.append(1))
    release.set()
    assert moved
    assert "the trackers were not done after 0 s and are left: wandb:p, mlflow:e" in caplog.text


@pytest.mark.parametrize("asked_at_first", [True, False])
def test_a_job_that_is_to_stop_hardly_waits_for_its_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked_at_first: bool
) -> None:
    release, asked = threading.Event(), threading.Event()

    def hang(tracker: TrackerName, info: RunInfo) -> Log:
        release.wait()
        return Log()

    monkeypatch.setattr(tracking, "open_log", hang)
    if asked_at_first:
        asked.set()
    told = tracking.JobTracking(SPEC, run_job(tmp_path), closing_timeout=3600)
    told.close(asked.set, asked.is_set)  # returns, though the tracker never does
    release.set()
    assert "and are left: wandb:p, mlflow:e" in caplog.text


def test_a_job_without_trackers_starts_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    told = tracking.JobTracking(EvaluationSpec(model="m", tasks=("t",)), run_job(tmp_path))
    told.tell("t", [METRIC])
    assert threading.active_count() == before
    told.close()
