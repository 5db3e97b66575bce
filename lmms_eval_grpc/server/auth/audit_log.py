"""The file that says who did what: one JSON object per line, written at once."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

REFUSALS_PER_CALLER = 20
"""Lines in a window for the refused calls of one caller."""
REFUSALS_IN_TOTAL = 500
"""Lines in a window for refused calls."""
WINDOW = 60.0
"""Seconds."""


class AuditLog:
    """Appends to a file; to a new one when somebody has moved it away.

    What was done is written line by line. Refused calls are written up to a number per minute, so that whoever has no
    credentials cannot fill the disk; a line says how many more there were.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._descriptor: int | None = None
        self._window_start = 0.0
        self._refusals: Counter[str] = Counter()
        self._left_out = 0

    def open(self) -> None:
        """Opens or creates the file. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Writes what is still to be said, and lets go. Idempotent."""
        self._tell_left_out()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def write(self, line: dict[str, object]) -> None:
        """Writes one line, with the time. A file that cannot be written is told in the server's log; calls go on."""
        moment = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"time": moment, **line}, ensure_ascii=False)
        try:
            if self._was_moved():
                self.close()
                self.open()
            assert self._descriptor is not None
            # In one piece: other writers of the file, such as a server that is just ending, do not come in between.
            os.write(self._descriptor, f"{text}\n".encode("utf-8", "replace"))
        except OSError as error:
            logger.error("the audit log %s cannot be written: %s; left out: %s", self._path, error.strerror, text)

    def write_refusal(self, caller: str, line: dict[str, object]) -> None:
        """Writes the line of a refused call, unless there were too many of them."""
        if not 0 <= self._clock() - self._window_start < WINDOW:
            self._tell_left_out()
            self._window_start = self._clock()
            self._refusals.clear()
        if self._refusals[caller] >= REFUSALS_PER_CALLER or self._refusals.total() >= REFUSALS_IN_TOTAL:
            self._left_out += 1
            return
        self._refusals[caller] += 1
        self.write(line)

    def _tell_left_out(self) -> None:
        count, self._left_out = self._left_out, 0
        if count:
            self.write({"refusals_left_out": count})

    def _was_moved(self) -> bool:
        if self._descriptor is None:
            return True
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        here = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)
