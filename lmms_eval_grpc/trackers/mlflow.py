"""Scores in a run of MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
        """Logs every score; characters that MLflow's names cannot have become ``_``."""
        for name, value in scores.items():
            self._client.log_metric(self._run_id, _FORBIDDEN.sub("_", name), value, step=0 if step is None else step)

    def close(self) -> None:
        """Ends the run if it is ours."""
        if self._finish:
            self._client.set_terminated(self._run_id)
