"""A job's folder where the node does not see the server's: the files go there with the job, and what becomes of them
comes back with its reports.

The worker's log, the run log and the samples only grow; what is added to them travels while the job runs, so that an
answer outlives the node that gave it. All else is fetched when the worker has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.jobs.secrets import SECRETS_FILE
from lmms_eval_grpc.worker.processes import IDENTITY_FILE

GROWING = ("worker.log", "run_log.jsonl", "samples.jsonl")
"""Files that are sent while they grow."""
ACTOR_FILE = "ray_actor"
"""Names the actor that runs the job."""
CHUNK_BYTES = 4 * 1024 * 1024
"""The most of a file that travels at once."""

_LEFT_OUT = (IDENTITY_FILE, ACTOR_FILE, SECRETS_FILE)
"""Files that say something about one machine only; and secrets, which the node is told with the job."""
_TAIL_BYTES = 64


@dataclass(frozen=True, slots=True)
class FileChange:
    """One step that makes a copy of a file what the original is."""

    path: str
    """Below the job's folder."""
    offset: int
    """Where ``data`` goes; what the copy has beyond that is cut off first."""
    data: bytes


@dataclass(frozen=True, slots=True)
class _Told:
    """How much of a file was told, and how that ended: what only grows still has it there."""

    size: int
    tail: bytes


class FolderSource:
    """Tells what has changed in a folder since it was last asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: dict[str, _Told] = {}

    def growth(self) -> Iterator[FileChange]:
        """What was added to the files that grow."""
        for name in GROWING:
            yield from self._changes(name)

    def rest(self) -> Iterator[FileChange]:
        """All that is not told yet, once nobody writes to the folder any more."""
        yield from self.growth()
        for path in sorted(self._folder.rglob("*")):
            name = str(path.relative_to(self._folder))
            if _stays(Path(name)):
                continue
            if path.is_file() and not path.is_symlink() and name not in (*GROWING, *_LEFT_OUT):
                self._told.pop(name, None)
                yield from self._changes(name)

    def know(self, change: FileChange) -> None:
        """Takes note that the other side has this already, because it came from there."""
        self._note(change)

    def _changes(self, name: str) -> Iterator[FileChange]:
        try:
            file = (self._folder / name).open("rb")
        except OSError:
            return
        with file:
            told = self._told.get(name)
            if told is not None:
                file.seek(max(0, told.size - len(told.tail)))
                if file.read(len(told.tail)) != told.tail:
                    told = None  # It was begun anew.
            size = 0 if told is None else told.size
            file.seek(size)
            while (data := file.read(CHUNK_BYTES)) or told is None:
                change = FileChange(name, size, data)
                yield change
                told = self._note(change)
                size = told.size

    def _note(self, change: FileChange) -> _Told:
        before = self._told.get(change.path)
        tail = (before.tail if before is not None and before.size == change.offset else b"") + change.data
        told = self._told[change.path] = _Told(change.offset + len(change.data), tail[-_TAIL_BYTES:])
        return told


def _stays(path: Path) -> bool:
    """Whether a file is of use only where it is: it can be as large as a model, and the next attempt makes it anew."""
    top = path.parts[0]
    return top in (scratch.FOLDER, scratch.MERGED_CHECKPOINT) or (top.startswith(".") and top.endswith(".merging"))


def snapshot(folder: Path) -> Iterator[FileChange]:
    """All files of a folder, for :func:`apply` elsewhere; what earlier attempts left to the next."""
    for change in FolderSource(folder).rest():
        torn = change.path in GROWING and change.path.endswith(".jsonl") and len(change.data) < CHUNK_BYTES
        # A line that a crash tore is cut off here, where both sides do it alike.
        data = change.data[: change.data.rfind(b"\n") + 1] if torn else change.data
        yield FileChange(change.path, change.offset, data)


def apply(folder: Path, change: FileChange) -> None:
    """Makes the change. Raises ValueError for a path that leads out of the folder, OSError for a full disk and such."""
    path = folder / change.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{change.path!r} leads out of the job's folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
        file.truncate(change.offset)
        file.seek(change.offset)
        file.write(change.data)
