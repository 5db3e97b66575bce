"""Copies of checkpoints that take no room, so that a trainer may delete what is still to be evaluated."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import uuid
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

NOT_FOR_INFERENCE = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", "global_step*")
"""What only resuming needs: kept, it would hold its room on the disk."""


class CannotPin(OSError):
    """The file system has no hard links, or they reach not so far."""


class Pins:
    """Hard-linked copies of folders, each removed when the last who took it lets go. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: Counter[Path] = Counter()

    def take(self, checkpoint: Path, folder: Path, *, may_move: bool = False) -> Path:
        """Makes or shares the copy of ``checkpoint`` in ``folder``, which is on the same file system, and returns it.

        Args:
            may_move: nobody else needs ``checkpoint``, so that where there are no hard links it becomes the copy.

        Raises:
            CannotPin: the files cannot be linked. Nothing is left behind.
        """
        copy = folder / checkpoint.name
        with self._lock:
            if not self._holders[copy]:
                shutil.rmtree(copy, ignore_errors=True)  # what an interrupted run left
                try:
                    _link(checkpoint, copy)
                except OSError as error:
                    shutil.rmtree(copy, ignore_errors=True)
                    if not may_move or not _move(checkpoint, copy):
                        message = f"{checkpoint} cannot be hard-linked to {copy}: {error}"
                        raise CannotPin(error.errno, message) from error
            self._holders[copy] += 1
        return copy

    def hold(self, copy: Path) -> None:
        """One more holder of a copy that somebody holds; anything else is left as it is."""
        with self._lock:
            if self._holders[copy]:
                self._holders[copy] += 1

    def release(self, copy: Path) -> None:
        """One holder less. What is no copy is left alone."""
        with self._lock:
            if not self._holders[copy]:
                return
            self._holders[copy] -= 1
            if self._holders[copy]:
                return
            del self._holders[copy]
            # Out of the way at once, so that nobody who takes or lets go of another waits for large files to go.
            doomed = copy.with_name(f".{copy.name}-{uuid.uuid4().hex}")
            with contextlib.suppress(OSError):
                copy.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        with self._lock, contextlib.suppress(OSError):
            copy.parent.rmdir()  # unless others are in it


def _link(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        if any(fnmatch(entry.name, pattern) for pattern in NOT_FOR_INFERENCE):
            continue
        if entry.is_dir():
            _link(Path(entry.path), target / entry.name)
        else:
            os.link(Path(entry.path).resolve(), target / entry.name)


def _move(source: Path, target: Path) -> bool:
    try:
        source.rename(target)
    except OSError:
        return False
    return True
