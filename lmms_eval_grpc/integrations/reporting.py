"""The trackers that a training run has open, as places for scores."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmms_eval_grpc.trackers.logs import SECTION, ScoreLog, ScoreLogs
from lmms_eval_grpc.trackers.mlflow import MlflowLog
from lmms_eval_grpc.trackers.tensorboard import TensorBoardLog
from lmms_eval_grpc.trackers.wandb import WandbLog

logger = logging.getLogger(__name__)


def open_logs(report_to: Iterable[str], output_dir: str) -> ScoreLogs:
    """The trackers of ``TrainingArguments.report_to``, once training has begun. One that cannot be had is a warning.

    TensorBoard gets a folder of its own beside the run's: of two files in one folder it reads the later one only.
    """
    logs = ScoreLogs()
    for name in report_to:
        try:
            log = _open(name, output_dir)
        except Exception as error:
            logger.warning("scores are not logged to %s: %s: %s", name, type(error).__name__, error)
            continue
        if log is not None:
            logs.add(log)
    return logs


def _open(name: str, output_dir: str) -> ScoreLog | None:
    if name == "tensorboard":
        parent = os.environ.get("TENSORBOARD_LOGGING_DIR")
        return TensorBoardLog((Path(parent).expanduser() if parent else Path(output_dir) / "runs") / SECTION)
    if name == "wandb" and "wandb" in sys.modules:
        run = sys.modules["wandb"].run
        return None if run is None else WandbLog(run, finish=False)
    if name == "mlflow" and "mlflow" in sys.modules:
        mlflow: Any = importlib.import_module("mlflow")
        active = mlflow.active_run()
        client = mlflow.tracking.MlflowClient()
        return None if active is None else MlflowLog(client, active.info.run_id, finish=False)
    return None
