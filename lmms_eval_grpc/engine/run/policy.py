"""What an evaluation bears: how many failed samples, and how many generated tokens."""

from __future__ import annotations

from dataclasses import dataclass

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.exhaustion import tells_out_of_memory


def check_errors(task: str, *, errored: int, asked: int, tolerated: float, newest: str) -> None:
    """Raises :class:`EvaluationError` ``TOO_MANY_ERRORS`` once the task can no longer be scored within the tolerance;
    ``OUT_OF_MEMORY`` where it is memory that the newest sample lacked, alone and in the smallest batch.

    ``tolerated`` is the largest share of ``asked`` that may fail. A few broken images in a benchmark of thousands are a
    fact of life, and every result carries the counts; beyond that share the mean over what is left is no longer the
    benchmark's score. ``newest`` is the newest failure, quoted as an example.
    """
    if errored > tolerated * asked:
        raise EvaluationError(
            "OUT_OF_MEMORY" if tells_out_of_memory(newest) else "TOO_MANY_ERRORS",
            f"task {task}: {errored} of {asked} samples failed, more than the {100 * tolerated:g}% that "
            f"max_error_share tolerates; for example: {newest}",
        )


@dataclass(slots=True)
class TokenBudget:
    """Generated tokens that the whole job may cost, its interrupted attempts included."""

    tokens: int | None
    """None: as many as it takes."""
    spent: int = 0

    @property
    def is_spent(self) -> bool:
        return self.tokens is not None and self.spent >= self.tokens
