"""What a case is given."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.suite import theirs
from benchmarks.suite.inputs import SAMPLES, TASK, Inputs

THEIR_BATCHES = (16, 64)


@dataclass(frozen=True)
class Bench:
    """The inputs, a folder for files, and how long the whole may take."""

    inputs: Inputs
    folder: Path
    quick: bool

    def rounds(self, most: int = 5, quick: int = 1) -> int:
        """How often a case measures: ``most`` times, unless there is a hurry."""
        return quick if self.quick else most

    @cached_property
    def their_batch(self) -> int:
        """Of THEIR_BATCHES that at which lmms-eval's command line is quickest, in one run each; a quick run does not
        look for it."""
        if self.quick:
            return 16
        folder = self.new_folder()
        # The first run fills the caches and does not count.
        theirs.command_line(self.inputs, folder, [TASK], limit=1)
        wall = {size: theirs.command_line(self.inputs, folder, [TASK], batch_size=size)[0] for size in THEIR_BATCHES}
        print("  lmms-eval: " + ", ".join(f"{took:.1f} s at batch size {size}" for size, took in wall.items()))
        return min(THEIR_BATCHES, key=lambda size: wall[size])

    @property
    def their_batch_words(self) -> str:
        """The batch size, and how it was chosen."""
        if self.quick:
            return f"batch size {self.their_batch}"
        tried = " and ".join(map(str, THEIR_BATCHES))
        return (
            f"batch size {self.their_batch}, at which its command line was the quickest of {tried} in one run each over"
            f" {SAMPLES} samples"
        )

    def new_folder(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))
