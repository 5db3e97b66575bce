"""Trackers are opened for jobs that run side by side, and with whatever labels they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.trackers import RunInfo, open_log, parse_tracker

NAME = "eval_service/mme/score"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow with a store of its own."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"file://{tmp_path / 'mlruns'}")
    yield mlflow
    mlflow.set_tracking_uri(before)


def log_score(tmp_path: Path, run: str, step: int, **labels: str) -> None:
    log = open_log(parse_tracker("mlflow:digits"), RunInfo("job-1", run, step, tmp_path, labels))
    log.log(step, {NAME: 0.5})
    log.close()


def read_scores(mlflow: Any) -> list[tuple[str, list[int]]]:
    """Name of each run, and the steps of its scores."""
    client = mlflow.tracking.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    return [
        (run.info.run_name, [point.step for point in client.get_metric_history(run.info.run_id, NAME)]) for run in runs
    ]


def test_jobs_that_begin_at_once_share_one_run_of_mlflow(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, others = mlflow.tracking.MlflowClient, []

    def after_another(make: Any) -> Any:
        def make_twice(client: Any, *arguments: Any, **named: Any) -> Any:
            others.append(make(client, *arguments, **named))
            return make(client, *arguments, **named)

        return make_twice

    for name in ("create_experiment", "create_run"):
        monkeypatch.setattr(kind, name, after_another(getattr(kind, name)))
    log_score(tmp_path, "sft", 10)
    log_score(tmp_path, "sft", 20)
    assert len(others) == 2
    assert read_scores(mlflow) == [("sft", [10, 20])]
    assert others[1].info.run_id == kind().search_runs([others[0]])[0].info.run_id


def test_a_training_loop_waits_for_one_call_to_mlflow(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, calls = mlflow.tracking.MlflowClient, []
    log_batch = kind.log_batch

    def count(client: Any, run_id: str, metrics: list[Any]) -> None:
        calls.append(len(metrics))
        log_batch(client, run_id, metrics)

    monkeypatch.setattr(kind, "log_batch", count)
    log = open_log(parse_tracker("mlflow:digits"), RunInfo("job-1", "sft", 1, tmp_path))
    log.log(1, {f"eval_service/mmlu/task {n},strict": n / 2000 for n in range(1200)})
    assert calls == [1000, 200]
    client = kind()
    [run] = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.data.metrics["eval_service/mmlu/task 1000_strict"] == 0.5


def test_labels_of_any_kind_do_not_keep_scores_from_mlflow(mlflow: Any, tmp_path: Path) -> None:
    labels = {"team@home": "a", "x=1": "b", "a//b": "c", "..": "d", "mlflow.runName": "e", "plain": "f"}
    log_score(tmp_path, "it's \\", 1, **labels)
    log_score(tmp_path, "it's \\", 2, **labels)
    assert read_scores(mlflow) == [("it's \\", [1, 2])]
    client = mlflow.tracking.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert (run.data.tags["plain"], run.data.tags["team_home"], run.data.tags["_mlflow.runName"]) == ("f", "a", "e")
