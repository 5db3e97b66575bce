"""Opens a tracker by its name, for one job."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_eval_grpc.trackers.logs import ScoreLog
from lmms_eval_grpc.trackers.mlflow import MlflowLog
from lmms_eval_grpc.trackers.names import TrackerName
from lmms_eval_grpc.trackers.tensorboard import TensorBoardLog
from lmms_eval_grpc.trackers.wandb import WandbLog

_RUN_TAG = "lmms_eval_grpc.run"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a tracker is told of a job."""

    job_id: str
    run: str
    """Name of the training run; the job's id where it has none."""
    step: int | None
    job_dir: Path
    """Where packages may put files of their own."""
    config: Mapping[str, Any] = field(default_factory=dict)


def open_log(name: TrackerName, info: RunInfo) -> ScoreLog:
    """The tracker, ready for scores. May raise anything, and take as long as the tracker's own server does."""
    match name.kind:
        case "tensorboard":
            return TensorBoardLog(Path(name.target).expanduser() / _file_name(info.run))
        case "wandb":
            return _open_wandb(name.target, info)
        case _:
            return _open_mlflow(name.target, info)


def _open_wandb(target: str, info: RunInfo) -> WandbLog:
    wandb: Any = importlib.import_module("wandb")
    entity, _, project = target.rpartition("/")
    run = wandb.init(
        project=project,
        entity=entity or None,
        # A run has one writer at a time, and jobs of one training run side by side: each is a run in a group.
        id=info.job_id,
        resume="allow",
        group=info.run,
        name=info.run if info.step is None else f"{info.run}/step-{info.step}",
        job_type="eval",
        config=dict(info.config),
        dir=os.environ.get("WANDB_DIR") or str(info.job_dir),
        settings=wandb.Settings(console="off", silent=True),
    )
    return WandbLog(run, finish=True)


def _open_mlflow(experiment: str, info: RunInfo) -> MlflowLog:
    mlflow: Any = importlib.import_module("mlflow")
    client = mlflow.tracking.MlflowClient()
    found = client.get_experiment_by_name(experiment)
    experiment_id = client.create_experiment(experiment) if found is None else found.experiment_id
    # The tag's value is quoted; a quote in it would end the text.
    wanted = info.run.replace("'", "_")
    runs = client.search_runs([experiment_id], f"tags.`{_RUN_TAG}` = '{wanted}'", max_results=1)
    if runs:
        return MlflowLog(client, runs[0].info.run_id, finish=True)
    tags = {_RUN_TAG: wanted, **{key: str(value) for key, value in info.config.items()}}
    return MlflowLog(client, client.create_run(experiment_id, run_name=info.run, tags=tags).info.run_id, finish=True)


def _file_name(run: str) -> str:
    """``run`` as the name of a folder."""
    name = re.sub(r"[^\w\-. ]", "_", run).strip(". ")
    return name or "run"
