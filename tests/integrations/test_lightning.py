"""The Lightning callback with a real Lightning Trainer and a real server."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

pl = pytest.importorskip("lightning.pytorch")
pytest.importorskip("tensorboard")

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402

from lmms_eval_grpc.integrations.lightning import EvalServiceCallback  # noqa: E402
from tests.end_to_end.conftest import ServerProcess, wait_until  # noqa: E402
from tests.integrations.test_transformers import free_port  # noqa: E402
from tests.support.trainer_runs import SCORE, TASK, Outage, build_model, digits, read_tensorboard  # noqa: E402

pytestmark = pytest.mark.slow
FULL, FAST = f"eval_service/{SCORE}", f"eval_service_fast/{SCORE}"


class Digits(pl.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.model = build_model(digits()[0])

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=4e-3)


def export(module: Digits, folder: Path) -> None:
    module.model.save_pretrained(folder)
    digits()[0].save_pretrained(folder)


def train(folder: Path, callbacks: list[Any], loggers: Any = False, max_steps: int = 8) -> Any:
    torch.set_num_threads(1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=loggers,
        callbacks=callbacks,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Digits(), torch.utils.data.DataLoader(digits()[1], batch_size=16))
    return trainer


class Full(CSVLogger):  # type: ignore[misc]
    """A logger that cannot take scores."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("eval_service") for name in metrics):
            raise OSError("no space")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Any:
    started = ServerProcess(tmp_path_factory.mktemp("server")).start()
    yield started.address
    started.stop()


def test_scores_reach_the_loggers_at_their_steps(address: str, tmp_path: Path) -> None:
    service = EvalServiceCallback(
        address,
        export,
        folder=tmp_path / "exports",
        model="idefics3",
        tasks=[TASK],
        limit=4,
        every_epochs=1,
        fast_tasks=[TASK],
        fast_limit=2,
        fast_every_steps=3,
    )
    loggers = [Full(tmp_path / "full"), TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "csv")]
    train(tmp_path, [service], loggers)
    assert {(result.lane, result.step, result.state) for result in service.results} == {
        ("full", 4, "completed"),
        ("full", 8, "completed"),
        ("fast", 3, "completed"),
        ("fast", 6, "completed"),
    }
    board = read_tensorboard(tmp_path / "board")
    assert (set(board[FULL]), set(board[FAST])) == ({4, 8}, {3, 6})
    [file] = (tmp_path / "csv").rglob("metrics.csv")
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get(FULL)]
    assert {int(row["step"]) for row in rows} == {4, 8}
    assert not [*(tmp_path / "exports").rglob("*.safetensors")], "exports go with their jobs"


def test_training_stops_when_exports_get_no_better_and_the_best_is_kept(address: str, tmp_path: Path) -> None:
    service = EvalServiceCallback(
        address,
        export,
        folder=tmp_path / "exports",
        model="idefics3",
        tasks=[TASK],
        limit=2,
        every_steps=1,
        best_metric=SCORE,
        early_stopping_patience=2,
        min_delta=1.0,
    )

    class WaitForScores(pl.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            wait_until(lambda: all(result.ended for result in service.results), 240, lambda: str(service.results))

    trainer = train(tmp_path, [service, WaitForScores()], max_steps=50)
    assert trainer.global_step == 4
    assert service.best is not None
    assert service.best.result.step == 1
    assert [path.parent.name for path in (tmp_path / "exports").rglob("model.safetensors")] == ["step-1"]


def test_training_survives_a_killed_server_and_has_all_results_once_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = ServerProcess(tmp_path / "server", "--port", str(free_port())).start()
    service = EvalServiceCallback(
        server.address,
        export,
        folder=tmp_path / "exports",
        model="idefics3",
        tasks=[TASK],
        limit=4,
        every_steps=2,
    )
    outage = Outage(server, lambda: service.results)

    class Kill(pl.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            outage.after_submission(trainer.global_step)

    try:
        train(tmp_path, [service, Kill()], TensorBoardLogger(tmp_path / "board"), max_steps=6)
    finally:
        server.stop()
    assert tuple((result.step, result.state) for result in service.results) == Outage.RESULTS
    scores = {result.step: result.metrics[0].value for result in service.results}
    assert read_tensorboard(tmp_path / "board")[FULL] == pytest.approx(scores)
    assert not [*(tmp_path / "exports").rglob("*.safetensors")], "exports go with their jobs"


def test_how_often_must_be_said() -> None:
    with pytest.raises(ValueError, match="say how often to evaluate"):
        EvalServiceCallback("localhost:1", export, folder="f", model="m", tasks=["t"])
