"""How many failed samples a score may bear before it says more about the failures than about the model."""

from __future__ import annotations

from lmms_eval_grpc.engine.api import EvaluationError

TOLERATED_ERROR_SHARE = 0.05
"""Largest share of a task's samples that may fail (model or scoring error) without failing the evaluation.

A few broken images in a benchmark of thousands are a fact of life, and every result carries the counts. Beyond this
share the mean over what is left is no longer the benchmark's score.
"""


def check_errors(task: str, *, errored: int, asked: int, newest: str) -> None:
    """Raises :class:`EvaluationError` ``TOO_MANY_ERRORS`` once the task can no longer be scored within the tolerance.

    ``newest`` is the newest failure, quoted as an example.
    """
    if errored > TOLERATED_ERROR_SHARE * asked:
        raise EvaluationError(
            "TOO_MANY_ERRORS",
            f"task {task}: {errored} of {asked} samples failed, more than the {TOLERATED_ERROR_SHARE:.0%} that are "
            f"tolerated; for example: {newest}",
        )
