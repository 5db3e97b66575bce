"""Which evaluations a training run wants, and when each is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Lane:
    """One kind of evaluation of a training run: what, and how often.

    Example:
        >>> Lane(every_steps=100, options={"tasks": ["mme"], "limit": 50, "priority": 10})

    Raises:
        ValueError: an interval is not at least 1, or there are two.
    """

    every_steps: int | None = None
    """Steps from one to the next. None, like ``every_epochs``: every checkpoint that is saved anyway."""
    every_epochs: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `EvalClient.evaluate` that differ from those of the run."""

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_epochs is not None:
            raise ValueError("every_steps and every_epochs are both set; use one")
        for name in ("every_steps", "every_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value!r}: use a whole number of at least 1, or None")

    def due_after_step(self, step: int) -> bool:
        """Whether its interval ends with this step."""
        return self.every_steps is not None and step % self.every_steps == 0

    def due_after_epoch(self, epoch: int) -> bool:
        """Whether its interval ends with this epoch, counted from 1."""
        return self.every_epochs is not None and epoch % self.every_epochs == 0

    @property
    def at_every_save(self) -> bool:
        """Whether it takes what is saved anyway."""
        return self.every_steps is None and self.every_epochs is None


def fast_lane(tasks: Sequence[str], limit: int | float | None, every_steps: int | None) -> Lane:
    """A quick look at sentinel tasks, which goes before the full evaluations in the queue."""
    return Lane(every_steps=every_steps, options={"tasks": list(tasks), "limit": limit, "priority": FAST_PRIORITY})


FAST_PRIORITY = 10
"""Of the fast lane's jobs, where the full ones have 0."""
