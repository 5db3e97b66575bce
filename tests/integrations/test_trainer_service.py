"""The Trainer callback with a real Trainer and a real server: lanes, trackers, outages, checkpoints that go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from lmms_eval_grpc.integrations.transformers import EvalServiceCallback
from tests.end_to_end.conftest import SLOW_FUNCTIONS, SLOW_TASK, ServerProcess, wait_until
from tests.integrations.test_transformers import free_port
from tests.support.trainer_runs import SCORE, TASK, Outage, logged, read_tensorboard, read_wandb, run_trainer

pytestmark = pytest.mark.slow

FULL, FAST = f"eval_service/{SCORE}", f"eval_service_fast/{SCORE}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    import lmms_eval_grpc.benchmarks

    folder = tmp_path_factory.mktemp("server")
    digits = Path(lmms_eval_grpc.benchmarks.__path__[0]) / "handwritten_digits" / "handwritten_digits.yaml"
    (folder / "tasks").mkdir()
    (folder / "tasks" / "slow.py").write_text(SLOW_FUNCTIONS)
    (folder / "tasks" / "slow_digits.yaml").write_text(SLOW_TASK.format(digits=digits))
    started = ServerProcess(folder, "--include-path", str(folder / "tasks")).start()
    yield started
    started.stop()


class WaitForScores(TrainerCallback):  # type: ignore[misc]
    """Makes a training run that is far too quick wait for its evaluations."""

    def __init__(self, service: EvalServiceCallback) -> None:
        self.service = service

    def on_save(self, *_: Any, **__: Any) -> None:
        wait_until(lambda: all(result.ended for result in self.service.results), 240, lambda: str(self.service.results))


def test_both_lanes_are_in_every_tracker_at_their_steps(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path / 'mlruns'}")
    service = EvalServiceCallback(
        server.address,
        model="idefics3",
        tasks=[TASK],
        limit=6,
        every_epochs=1,
        fast_tasks=[TASK],
        fast_limit=2,
        fast_every_steps=3,
        labels={"run": "lanes"},
    )
    trainer = run_trainer(
        tmp_path / "run", [service], num_train_epochs=2, report_to=["tensorboard", "wandb", "mlflow"], run_name="t"
    )
    wandb.finish()
    history = trainer.state.log_history
    assert logged(history, FULL) == [4, 8]
    assert logged(history, FAST) == [3, 6]
    values = {(name, entry["step"]): entry[name] for entry in history for name in (FULL, FAST) if name in entry}

    board = read_tensorboard(tmp_path / "board")
    on_board = {(name, step): value for name in (FULL, FAST) for step, value in board[name].items()}
    assert on_board == pytest.approx(values)
    assert set(board["train/loss"]) == set(range(1, 9))

    rows = [row for row in read_wandb(tmp_path) if "eval_service/step" in row]
    assert {
        (name, row["eval_service/step"]): row[name] for row in rows for name in (FULL, FAST) if name in row
    } == values

    client = mlflow.tracking.MlflowClient()
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    in_mlflow = {
        (name, point.step): point.value
        for name in (FULL, FAST)
        for point in client.get_metric_history(run.info.run_id, name)
    }
    assert in_mlflow == values
    with server.client() as client:
        jobs = [*client.list_jobs(labels={"run": "lanes"})]
    assert {(job.labels["step"], job.labels.get("lane", ""), job.priority) for job in jobs} == {
        ("4", "", 0),
        ("8", "", 0),
        ("3", "fast", 10),
        ("6", "fast", 10),
    }


def test_scores_of_a_running_job_are_logged_before_its_end(server: ServerProcess, tmp_path: Path) -> None:
    service = EvalServiceCallback(
        server.address, model="idefics3", tasks=[TASK, "slow_digits"], limit=20, every_steps=1
    )
    states = []

    class UntilFirstScore(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                wait_until(lambda: bool(service.results[0].metrics), 240, lambda: str(service.results))
                states.append(service.results[0].state)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                states.append(logged(state.log_history, FULL))

    run_trainer(tmp_path, [service, UntilFirstScore()], max_steps=2)
    assert states == ["running", [1]]


def test_training_survives_a_killed_server_and_has_all_results_once_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = ServerProcess(tmp_path / "server", "--port", str(free_port())).start()
    service = EvalServiceCallback(server.address, model="idefics3", tasks=[TASK], limit=4, every_steps=2)

    outage = Outage(server, lambda: service.results)

    class Kill(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            outage.after_submission(state.global_step)

    try:
        trainer = run_trainer(tmp_path / "run", [service, Kill()], max_steps=6)
    finally:
        server.stop()
    assert tuple((result.step, result.state) for result in service.results) == Outage.RESULTS
    assert logged(trainer.state.log_history, FULL) == [2, 4, 6]


def test_checkpoints_that_the_trainer_deletes_are_evaluated_all_the_same(server: ServerProcess, tmp_path: Path) -> None:
    service = EvalServiceCallback(server.address, model="idefics3", tasks=["slow_digits"], limit=4)
    with server.client() as client:
        client.pause_queue("until the Trainer has deleted checkpoints")
    there = []

    class Resume(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                there.extend(sorted(path.name for path in tmp_path.glob("checkpoint-*")))
                there.extend(sorted(path.name for path in tmp_path.glob("pinned-checkpoints/*")))
                with server.client() as client:
                    client.resume_queue()

    run_trainer(
        tmp_path,
        [service, Resume()],
        max_steps=3,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        save_only_model=False,
    )
    assert there == ["checkpoint-3", "checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert [(result.step, result.state) for result in service.results] == [(n, "completed") for n in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir() if "checkpoint" in path.name) == ["checkpoint-3"]


def test_training_stops_when_checkpoints_get_no_better_and_the_best_is_kept(
    server: ServerProcess, tmp_path: Path
) -> None:
    service = EvalServiceCallback(
        server.address,
        model="idefics3",
        tasks=[TASK],
        limit=4,
        best_metric=SCORE,
        early_stopping_patience=2,
        early_stopping_threshold=1.0,  # no checkpoint can be better than the first
    )
    trainer = run_trainer(
        tmp_path,
        [service, WaitForScores(service)],
        max_steps=50,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
    )
    assert trainer.state.global_step == 4, "three checkpoints are compared, and the next step's end takes note"
    assert service.best is not None
    assert service.best.result.step == 1
    kept = Path(service.best.result.checkpoint)
    assert kept == tmp_path / "pinned-checkpoints" / "checkpoint-1"
    assert (kept / "model.safetensors").is_file()
    assert [path.name for path in kept.parent.iterdir()] == ["checkpoint-1"]


def test_all_processes_of_a_distributed_run_stop_at_one_step_and_the_first_submits(
    server: ServerProcess, tmp_path: Path
) -> None:
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    program = ["-m", "tests.support.distributed_trainer", server.address, str(tmp_path / "run")]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, *command, *program], capture_output=True, text=True, timeout=280, env=environment, cwd=root
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    # Two checkpoints are compared, and the third save is where the first process tells the other.
    assert sorted(line for line in ran.stdout.splitlines() if line[:1] in "01") == ["0 3 3", "1 3 0"]


def test_a_dead_server_costs_a_warning_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = EvalServiceCallback(
        f"127.0.0.1:{free_port()}", model="idefics3", tasks=[TASK], every_steps=1, outage_timeout=0.1
    )
    trainer = run_trainer(tmp_path, [service], max_steps=2)
    assert trainer.state.global_step == 2
    assert [result.state for result in service.results] == ["not submitted", "not submitted"]
    assert "evaluation of step 2: not submitted" in caplog.text
