"""Scores in a run of MLflow."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping
from typing import Any

_MOST = 1000
"""Metrics that MLflow takes in one call."""
_FORBIDDEN = re.compile(r"[^\w\-. :/]")


class MlflowLog:
    """Logs to a run by its id, which works after the run has ended, too."""

    def __init__(self, client: Any, run_id: str, *, finish: bool) -> None:
        """
        Args:
            client: an ``mlflow.tracking.MlflowClient``.
            run_id: the run.
            finish: whether closing ends the run, which belongs to a trainer otherwise.
        """
        self._client = client
        self._run_id = run_id
        self._finish = finish

    def log(self, step: int | None, scores: Mapping[str, float]) -> None:
        """Logs every score, in one call to MLflow's server as far as it takes them: a training loop waits for it.
        Characters that MLflow's names cannot have become ``_``."""
        entities: Any = importlib.import_module("mlflow.entities")
        now = time.time_ns() // 1_000_000
        metrics = [
            entities.Metric(_FORBIDDEN.sub("_", name), value, now, 0 if step is None else step)
            for name, value in scores.items()
        ]
        for first in range(0, len(metrics), _MOST):
            self._client.log_batch(self._run_id, metrics[first : first + _MOST])

    def close(self) -> None:
        """Ends the run if it is ours."""
        if self._finish:
            self._client.set_terminated(self._run_id)
