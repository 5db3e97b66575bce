"""Results reach TensorBoard, Weights & Biases and MLflow from the service itself, as jobs and servers ask for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ServerProcess, wait_until
from tests.support.trainer_runs import SCORE, TASK, read_tensorboard, read_wandb

pytestmark = pytest.mark.slow
NAME = f"eval_service/{SCORE}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    environment = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"file://{folder / 'mlruns'}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        started = ServerProcess(folder, "--track", f"tensorboard:{folder / 'board'}").start()
    yield started
    started.stop()


def test_results_are_told_at_the_step_and_in_the_run_of_the_labels(
    server: ServerProcess, folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    values: dict[int, float] = {}
    with server.client() as client:
        for step in (200, 100):  # jobs end in any order
            job = client.evaluate(
                model="idefics3",
                tasks=[TASK],
                model_args={"pretrained": str(tiny_checkpoint)},
                limit=4,
                track=["wandb:digits", "mlflow:digits"],
                labels={"run": "sft 7", "step": str(step)},
            )
            done = client.wait_for_job(job["job_id"], verbose=False)
            values[step] = done["result"]["results"][TASK]["exact_match,none"]
        own = f"tensorboard:{folder / 'board'}"
        assert list(client.get(job["job_id"]).evaluation.track) == ["wandb:digits", "mlflow:digits", own]

    assert read_tensorboard(folder / "board" / "sft 7") == {NAME: pytest.approx(values)}
    assert {row["eval_service/step"]: row[NAME] for row in read_wandb(folder)} == values

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = mlflow.tracking.MlflowClient(f"file://{folder / 'mlruns'}")
    [run] = store.search_runs([store.get_experiment_by_name("digits").experiment_id])
    assert run.info.run_name == "sft 7"
    assert {point.step: point.value for point in store.get_metric_history(run.info.run_id, NAME)} == values


def test_a_tracker_that_fails_is_a_warning_in_the_log_of_the_job(
    server: ServerProcess, folder: Path, tiny_checkpoint: Path
) -> None:
    with server.client() as client:
        client.pause_queue("until the tracker's folder is spoilt")
        job = client.evaluate(
            model="idefics3",
            tasks=[TASK],
            model_args={"pretrained": str(tiny_checkpoint)},
            limit=1,
            track=f"tensorboard:{folder / 'spoilt'}",
        )
        (folder / "spoilt").write_text("a file where a folder should be")
        client.resume_queue()
        assert client.wait_for_job(job["job_id"], verbose=False)["status"] == "completed"
        log = "".join(client.iter_logs(job["job_id"]))
    assert "scores are not logged to TensorBoard any more" in log
    assert read_tensorboard(folder / "board" / job["job_id"]), "the other tracker is told all the same"


def test_a_complete_job_that_is_cancelled_while_a_tracker_hangs_keeps_its_result(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        server = ServerProcess(tmp_path).start()
        try:
            with server.client() as client:
                job = client.evaluate(
                    model="idefics3",
                    tasks=[TASK],
                    model_args={"pretrained": str(tiny_checkpoint)},
                    limit=1,
                    track="mlflow:digits",
                )
                job_id = job["job_id"]
                wait_until(lambda: any(server.state_dir.rglob(f"*{job_id}*/**/*results.json")), 240, server.log)
                assert client.get_job(job_id)["status"] == "running"
                client.cancel_job(job_id)
                assert client.wait_for_job(job_id, verbose=False)["status"] == "completed"
                log = "".join(client.iter_logs(job_id))
        finally:
            server.stop()
    assert "the trackers were not done after" in log
