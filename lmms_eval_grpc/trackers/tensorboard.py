"""Scores as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class TensorBoardLog:
    """Writes scalars to a folder, a new event file each time.

    TensorBoard leaves a file for good once there is a later one in the folder, so that a file must be whole when it
    appears: several jobs, or a training run, may write at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log(self, step: int | None, scores: Mapping[str, float]) -> None:
        """Writes one point of each curve. Without a step the points are at 0."""
        from torch.utils.tensorboard import SummaryWriter  # late: imports tensorboard

        with SummaryWriter(str(self._folder)) as writer:
            for name, value in scores.items():
                writer.add_scalar(name, value, 0 if step is None else step)

    def close(self) -> None:
        """Everything is written already."""
