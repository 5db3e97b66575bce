"""Copies of checkpoints on this machine's disk, bounded in size, for all processes of the machine.

``$LMMS_EVAL_GRPC_CHECKPOINT_CACHE`` is the folder; by default one in the Hugging Face home, or in the temporary folder
where that is on a network file system. ``$LMMS_EVAL_GRPC_CHECKPOINT_CACHE_GIB`` bounds it, by default 200.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data.folders import hugging_face_home, is_on_network

_log = logging.getLogger(__name__)

_FOLDER = "LMMS_EVAL_GRPC_CHECKPOINT_CACHE"
_BOUND = "LMMS_EVAL_GRPC_CHECKPOINT_CACHE_GIB"
_GIB = 1 << 30
_USUAL_BYTES = 200 * _GIB
_PARTIAL = ".partial"
_LOCK = ".lock"
_POLL_SECONDS = 0.2


class CheckpointCache:
    """One folder for each checkpoint, with a file beside it that is locked while somebody uses it."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    @contextlib.contextmanager
    def use(
        self, key: str, size: int, fill: Callable[[Path], None], stop_if_cancelled: Callable[[], None]
    ) -> Iterator[Path]:
        """The folder of the checkpoint ``key`` for the time of the context; ``fill`` makes it where it is not there.

        Processes that want the same checkpoint wait for the first of them. What was not used for longest makes room for
        ``size`` bytes, unless somebody uses it still.

        Raises:
            EvaluationError: ``MODEL_LOAD_FAILED`` where a checkpoint of that size will never fit, and as ``fill`` does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / key
        with path.with_suffix(_LOCK).open("ab") as lock:
            _wait_for(lock.fileno(), fcntl.LOCK_SH, stop_if_cancelled)
            while not path.is_dir():
                _wait_for(lock.fileno(), fcntl.LOCK_EX, stop_if_cancelled)
                if not path.is_dir():
                    self._make(path, size, fill)
                # Between the two locks there is none, and somebody may have removed it again.
                _wait_for(lock.fileno(), fcntl.LOCK_SH, stop_if_cancelled)
            os.utime(path)
            yield path

    def _make(self, path: Path, size: int, fill: Callable[[Path], None]) -> None:
        if size > self.max_bytes:
            raise EvaluationError(
                "MODEL_LOAD_FAILED",
                f"the checkpoint has {size / _GIB:.1f} GiB, and copies of checkpoints on this machine may have"
                f" {self.max_bytes / _GIB:.1f}; raise {_BOUND}",
            )
        self._make_room(size)
        partial = path.with_suffix(_PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        entries = [path for path in self.folder.iterdir() if path.is_dir()]
        sizes = {path: _size(path) for path in entries}
        for path in sorted(entries, key=_last_use):
            if sum(sizes.values()) + size <= self.max_bytes:
                return
            with path.with_suffix(_LOCK).open("ab") as lock, contextlib.suppress(BlockingIOError):
                # One that a crash left half made is locked by nobody either.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _log.info("removing %s, the copy of a checkpoint that was not used for longest", path)
                shutil.rmtree(path, ignore_errors=True)
                sizes[path] = 0
        if sum(sizes.values()) + size > self.max_bytes:
            _log.warning("%s holds more than it should, because all of it is in use", self.folder)


def default_cache() -> CheckpointCache:
    """The cache that the environment asks for. Raises EvaluationError for a bound that is no number."""
    text = os.environ.get(_BOUND, "").strip()
    try:
        bound = float(text) * _GIB if text else _USUAL_BYTES
    except ValueError:
        bound = math.nan
    if not 0 <= bound < math.inf:
        raise EvaluationError("MODEL_LOAD_FAILED", f"{_BOUND} must be a number of GiB, 0 or more, but is {text!r}")
    chosen = os.environ.get(_FOLDER, "").strip()
    if chosen:
        return CheckpointCache(Path(os.path.expandvars(chosen)).expanduser(), int(bound))
    folder = hugging_face_home() / "lmms_eval_grpc_checkpoints"
    if is_on_network(folder):
        folder = Path(tempfile.gettempdir()) / f"lmms_eval_grpc_checkpoints_{getpass.getuser()}"
    return CheckpointCache(folder, int(bound))


def _wait_for(descriptor: int, kind: int, stop_if_cancelled: Callable[[], None]) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            stop_if_cancelled()
            time.sleep(_POLL_SECONDS)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
