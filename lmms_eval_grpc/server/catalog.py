"""What can be evaluated here: the index of tasks, kept up to date with its files, and the model backends."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.entry import ModelEntry
from lmms_eval_grpc.engine.tasks.index import DEFAULT_FOLDER, MAX_ENTRIES, TaskIndex
from lmms_eval_grpc.engine.tasks.sources import plugin_folders

logger = logging.getLogger(__name__)

MAX_AGE = 1.0
"""Seconds for which an index is used without a look at its files."""
_KEPT_INDEXES = 16
_MOST_TOLD = 50
"""Files that are named in the log when they cannot be used: requests name folders, and the log is no place for all of
what they hold."""

AvailableModel = tuple[ModelEntry, tuple[str, ...]]
"""A backend, and the packages that it needs and that are not installed here."""

Stamp = frozenset[tuple[str, int, int]]
_Key = tuple[tuple[Path, ...], bool]


@dataclass(frozen=True, slots=True)
class _Known:
    index: TaskIndex
    stamp: Stamp
    looked_at: float


class TaskCatalog:
    """The task index of the server's folders and of those that requests add. For threads: a call may touch disks."""

    def __init__(self, include_paths: Sequence[Path]) -> None:
        self._include_paths = tuple(include_paths)
        own = (*self._include_paths, DEFAULT_FOLDER, *(folder for _, folder in plugin_folders() if folder is not None))
        self._own_folders = tuple(
            dict.fromkeys(path for folder in own for path in (folder.absolute(), folder.resolve()))
        )
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._lock = threading.Lock()
        self._looking: weakref.WeakValueDictionary[_Key, threading.Lock] = weakref.WeakValueDictionary()

    def index(self, more_paths: Sequence[Path] = (), *, override: bool = False, max_age: float = MAX_AGE) -> TaskIndex:
        """The tasks of the server's folders and ``more_paths``, as their files were at most ``max_age`` seconds ago.

        With ``override`` a name in a later folder wins over the same in an earlier one. A folder is scanned again only
        when a file in it was added, removed or changed. A folder that takes long holds up nobody who named others.
        """
        key = ((*self._include_paths, *more_paths), override)
        called_at = time.monotonic()
        with self._lock:
            looking = self._looking.setdefault(key, threading.Lock())
        with looking:
            # Whoever waited for the lock while another looked has what it came for.
            known = self._find(key)
            if known is not None and known.looked_at >= called_at - max_age:
                return known.index
            looked_at = time.monotonic()
            paths, _ = key
            stamp = _stamp((DEFAULT_FOLDER, *paths))
            index = known.index if known is not None and known.stamp == stamp else _scan(paths, override)
            self._keep(key, _Known(index, stamp, looked_at))
            return index

    def without_folders(self, text: str) -> str:
        """``text`` with the paths of the server's own folders of tasks, which are not a caller's to know, shortened to
        their last names."""
        for folder in self._own_folders:
            text = text.replace(str(folder), folder.name)
        return text

    def _find(self, key: _Key) -> _Known | None:
        with self._lock:
            return self._known.get(key)

    def _keep(self, key: _Key, known: _Known) -> None:
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > _KEPT_INDEXES:
                self._known.popitem(last=False)


def _scan(paths: Sequence[Path], override: bool) -> TaskIndex:
    started = time.monotonic()
    index = TaskIndex.open(paths, override=override)
    logger.info("task index: %d names in %.2f s", len(index.entries()), time.monotonic() - started)
    problems = index.problems()
    for problem in problems[:_MOST_TOLD]:
        logger.warning("task file not used: %s", problem)
    if len(problems) > _MOST_TOLD:
        logger.warning("and %d more task files are not used", len(problems) - _MOST_TOLD)
    return index


def _stamp(folders: Sequence[Path]) -> Stamp:
    """What changes when a YAML file below the folders is added, removed or written. Of folders that hold more
    than an index takes only the first part is looked at."""
    found: set[tuple[str, int, int]] = set()
    left = MAX_ENTRIES
    for folder in filter(os.path.isdir, folders):  # which is False, too, of what could be no path
        for current, below, names in os.walk(folder):
            left -= len(below) + len(names)
            if left < 0:
                return frozenset(found)
            for name in names:
                if not name.endswith((".yaml", ".yml")):
                    continue
                path = os.path.join(current, name)  # noqa: PTH118 - thousands of files, each time
                try:
                    facts = os.stat(path)  # noqa: PTH116
                except OSError:
                    continue
                found.add((path, facts.st_mtime_ns, facts.st_size))
    return frozenset(found)


def available_models() -> list[AvailableModel]:
    """Every backend, sorted by name."""
    return [(entry, entry.missing_packages()) for entry in sorted(registry.entries(), key=lambda e: e.name)]
