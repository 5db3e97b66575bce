"""The Trainer callback in real training runs."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from lmms_eval_grpc.integrations.transformers import EvalServiceCallback
from tests.end_to_end.conftest import ServerProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

import train_digits

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_checkpoint_is_evaluated_and_logged_at_its_step(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = ServerProcess(tmp_path / "server").start()
    try:
        service = EvalServiceCallback(
            server.address, model="idefics3", tasks=["handwritten_digits"], limit=4, labels={"run": "test"}
        )
        history: list[dict[str, float]] = []

        class Keep(train_digits.TrainerCallback):  # type: ignore[misc]
            def on_train_end(
                self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
            ) -> None:
                history.extend(state.log_history)

        train_digits.train(
            tmp_path / "run", steps=4, save_steps=(0, 2, 4), callbacks=[service, Keep()], quiet=True
        )  # fmt: skip
        assert [(result.step, result.state) for result in service.results] == [
            (0, "completed"),
            (2, "completed"),
            (4, "completed"),
        ]
        logged = {entry["step"] for entry in history if "eval_service/handwritten_digits/exact_match" in entry}
        assert logged == {0, 2, 4}
        for result in service.results:
            (metric,) = result.metrics
            assert (metric.task, metric.name) == ("handwritten_digits", "exact_match")
            assert 0 < result.submitted <= result.finished
        with server.client() as client:
            labels = [dict(job.labels) for job in client.list_jobs(labels={"run": "test"})]
        assert sorted(label["step"] for label in labels) == ["0", "2", "4"]
    finally:
        server.stop()


def test_only_the_first_process_of_a_distributed_run_submits(tmp_path: Path) -> None:
    service = EvalServiceCallback(f"127.0.0.1:{free_port()}", model="idefics3", tasks=["handwritten_digits"])
    other = TrainerState(global_step=10, is_world_process_zero=False)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    service.on_save(arguments, other, TrainerControl())
    assert service.results == ()
