"""Scores in a run of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval_grpc.trackers.logs import SECTION, STEP_NAME


class WandbLog:
    """Logs to a run, on a step axis of the scores' own: the run's counter only goes forward, and scores come late."""

    def __init__(self, run: Any, *, finish: bool) -> None:
        """
        Args:
            run: what ``wandb.init`` returned.
            finish: whether closing finishes the run, which belongs to a trainer otherwise.
        """
        self._run = run
        self._finish = finish
        run.define_metric(STEP_NAME, hidden=True)
        run.define_metric(f"{SECTION}*", step_metric=STEP_NAME)

    def log(self, step: int | None, scores: Mapping[str, float]) -> None:
        """Logs one row."""
        self._run.log({**scores, STEP_NAME: 0 if step is None else step})

    def close(self) -> None:
        """Finishes the run if it is ours."""
        if self._finish:
            self._run.finish()
