"""Named arrays on disk, bounded in size, for all processes of a machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_log = logging.getLogger(__name__)

_SUFFIX = ".npz"
_PARTIAL = ".partial"
_ABANDONED_S = 3600.0
_SHARE_BETWEEN_COUNTS = 1 / 64
_SHARE_OF_ONE_ENTRY = 1 / 8
_SHARE_KEPT = 7 / 8


class ArrayStore:
    """One file for each entry. Any number of threads and processes may use a folder at once.

    What was not used for longest goes when there is too much. Each process counts after it has written a 64th of the
    bound, and makes room for an eighth, so the bound holds with up to eight that write.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._uncounted = max_bytes  # the first entry has the folder counted

    def get(self, key: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
        """The arrays and the notes that were put under ``key``, or None. An entry that is not whole is removed."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as stored:  # the format's check sums are compared
                arrays = {name: stored[name] for name in stored.files}
            notes = json.loads(str(arrays.pop("notes")))
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("the entry %s of the media cache cannot be read: %s", path, error)
            return None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("the entry %s of the media cache is broken and removed: %s", path, error)
            _remove(path)
            return None
        with contextlib.suppress(OSError):  # read-only, or just removed
            os.utime(path)
        return arrays, notes

    def put(self, key: str, arrays: Mapping[str, npt.NDArray[Any]], notes: Mapping[str, Any]) -> None:
        """Keeps ``arrays`` and ``notes`` (of plain JSON). Too large an entry, or a full disk, is passed over."""
        size = sum(array.nbytes for array in arrays.values())
        if size > self.max_bytes * _SHARE_OF_ONE_ENTRY:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(suffix=_PARTIAL, dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    np.savez(stream, allow_pickle=False, notes=np.array(json.dumps(dict(notes))), **arrays)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            _log.warning("the media cache in %s cannot be written: %s", self.folder, error)
            return
        with self._lock:
            self._uncounted += size
            due = self._uncounted > self.max_bytes * _SHARE_BETWEEN_COUNTS
            if due:
                self._uncounted = 0
        if due:
            self._make_room()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def _make_room(self) -> None:
        entries = []
        for path in self.folder.glob("??/*"):
            try:
                status = path.stat()
            except OSError:  # another process was quicker
                continue
            if path.suffix == _PARTIAL and time.time() - status.st_mtime > _ABANDONED_S:
                _remove(path)  # its process died while it wrote
            elif path.suffix == _SUFFIX:
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes * _SHARE_KEPT:
                break
            _remove(path)
            total -= size


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
