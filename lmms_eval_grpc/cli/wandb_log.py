"""Final results and samples for Weights & Biases."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.record.redact import redact


def require_wandb() -> None:
    """Raises UsageError where the package is not installed: better before an evaluation than after it."""
    if importlib.util.find_spec("wandb") is None:
        raise UsageError("--wandb_args needs the package wandb; pip install wandb, or leave the flag out")


def log_results(document: Mapping[str, Any], samples_paths: tuple[Path, ...], arguments: Mapping[str, Any]) -> None:
    """One run of ``wandb.init(**arguments)`` with every number of the results document as ``task/metric,filter``.

    ``samples_paths`` are logged as a table each, named by its task. Raises EvaluationError TRACKER_FAILED.
    """
    wandb: Any = importlib.import_module("wandb")
    config = redact(document["config"].get("resolved_cli_args") or {})
    try:
        _log(wandb.init(**{"job_type": "eval", **arguments}, config=config), wandb, document, samples_paths)
    except Exception as error:
        message = f"the results could not be logged to Weights & Biases: {type(error).__name__}: {error}"
        raise EvaluationError("TRACKER_FAILED", message) from error


def _log(run: Any, wandb: Any, document: Mapping[str, Any], samples_paths: tuple[Path, ...]) -> None:
    try:
        run.log(
            {
                f"{task}/{key}": value
                for task, row in document["results"].items()
                for key, value in row.items()
                if isinstance(value, int | float)
            }
        )
        for path in samples_paths:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            columns = sorted({key for line in lines for key in line})
            rows = [[_cell(line.get(column)) for column in columns] for line in lines]
            run.log({f"samples/{path.stem.partition('_samples_')[2]}": wandb.Table(columns=columns, data=rows)})
    finally:
        run.finish()


def _cell(value: Any) -> Any:
    """Columns of a table have one type each."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
