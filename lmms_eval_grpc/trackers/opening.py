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
    experiment_id = _find_experiment(client, experiment)
    # The tag's value is quoted; a quote in it would end the text.
    wanted = info.run.replace("'", "_")
    run_id = _find_run(client, experiment_id, wanted)
    if run_id is None:
        tags = {**{_tag_name(key): str(value) for key, value in info.config.items()}, _RUN_TAG: wanted}
        own = client.create_run(experiment_id, run_name=info.run, tags=tags).info.run_id
        # The jobs of one checkpoint begin at once: of two that made the run, both take the first.
        run_id = _find_run(client, experiment_id, wanted) or own
        if run_id != own:
            client.delete_run(own)
    return MlflowLog(client, run_id, finish=True)


def _find_experiment(client: Any, name: str) -> str:
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except Exception:
        if found := client.get_experiment_by_name(name):  # another job was quicker
            return str(found.experiment_id)
        raise


def _find_run(client: Any, experiment_id: str, wanted: str) -> str | None:
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    runs = client.search_runs([experiment_id], f"tags.`{_RUN_TAG}` = '{wanted}'", order_by=order, max_results=1)
    return runs[0].info.run_id if runs else None


def _tag_name(key: str) -> str:
    """``key`` as the name of a tag of ours: MLflow takes few characters, and names that begin with ``mlflow.`` are its
    own."""
    name = re.sub(r"[^\w\-. :]", "_", key)
    return f"_{name}" if name.startswith((".", "mlflow.")) else name


def _file_name(run: str) -> str:
    """``run`` as the name of a folder."""
    name = re.sub(r"[^\w\-. ]", "_", run).strip(". ")
    return name or "run"
