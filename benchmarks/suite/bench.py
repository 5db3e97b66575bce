"""What a case is given."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.inputs import Inputs

THEIR_BATCH = 16
"""Of lmms-eval where it is not at its default of 1. At 64 its command line took 15.3 s for 300 samples, at 16 16.3."""


@dataclass(frozen=True)
class Bench:
    """The inputs, a folder for files, and how long the whole may take."""

    inputs: Inputs
    folder: Path
    quick: bool

    def rounds(self, most: int = 5, quick: int = 1) -> int:
        """How often a case measures: ``most`` times, unless there is a hurry."""
        return quick if self.quick else most

    def new_folder(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))
