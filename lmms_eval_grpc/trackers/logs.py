"""Logging of scores that never fails its caller."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Protocol

logger = logging.getLogger(__name__)

SECTION = "eval_service"
"""What the names of all scores begin with, which trackers show as a section of charts."""
STEP_NAME = f"{SECTION}/step"
"""The axis of the scores where a tracker has only one counter of its own: scores come late, and in any order."""
DEFAULT_LANE = "full"


class ScoreLog(Protocol):
    """One open tracker."""

    def log(self, step: int | None, scores: Mapping[str, float]) -> None:
        """Takes ``scores`` by name for training step ``step``; None: whoever submitted the job named no step. May raise
        anything."""

    def close(self) -> None:
        """Returns when all is written."""


class ScoreLogs:
    """Several trackers. One that fails costs a warning, and is left alone from then on."""

    def __init__(self, logs: Iterable[ScoreLog] = ()) -> None:
        self._logs = list(logs)

    def add(self, log: ScoreLog) -> None:
        """Tells one more, from now on."""
        self._logs.append(log)

    def log(self, step: int | None, scores: Mapping[str, float]) -> None:
        """Tells all of them the scores that are numbers."""
        defined = {name: value for name, value in scores.items() if math.isfinite(value)}
        for log in list(self._logs) if defined else ():
            try:
                log.log(step, defined)
            except Exception as error:
                self._logs.remove(log)
                logger.warning("scores are not logged to %s any more: %s", _describe(log), _say(error))

    def close(self) -> None:
        """Closes all of them."""
        logs, self._logs = self._logs, []
        for log in logs:
            try:
                log.close()
            except Exception as error:
                logger.warning(
                    "%s could not be closed, its last scores may be missing: %s", _describe(log), _say(error)
                )


def metric_key(name: str, filter_name: str) -> str:
    """A metric's name within its task: the filter is told where it is not the usual one."""
    return name if filter_name in ("", "none") else f"{name},{filter_name}"


def score_name(lane: str, task: str, key: str) -> str:
    """The name of a score in every tracker, such as ``eval_service/mme/score``. Lanes have sections of their own."""
    section = SECTION if lane == DEFAULT_LANE else f"{SECTION}_{lane}"
    return f"{section}/{task}/{key}"


def _describe(log: ScoreLog) -> str:
    return type(log).__name__.removesuffix("Log")


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
