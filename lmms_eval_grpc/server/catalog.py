"""What can be evaluated here: the index of tasks, kept up to date with its files, and the model backends."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.entry import ModelEntry
from lmms_eval_grpc.engine.tasks.index import DEFAULT_FOLDER, TaskIndex

logger = logging.getLogger(__name__)

MAX_AGE = 1.0
"""Seconds for which an index is used without a look at its files."""
_KEPT_INDEXES = 16

AvailableModel = tuple[ModelEntry, tuple[str, ...]]
"""A backend, and the packages that it needs and that are not installed here."""

Stamp = frozenset[tuple[str, int, int]]


@dataclass(frozen=True, slots=True)
class _Known:
    index: TaskIndex
    stamp: Stamp
    looked_at: float


class TaskCatalog:
    """The task index of the server's folders and of those that requests add. For threads: a call may touch disks."""

    def __init__(self, include_paths: Sequence[Path]) -> None:
        self._include_paths = tuple(include_paths)
        self._known: OrderedDict[tuple[tuple[Path, ...], bool], _Known] = OrderedDict()
        self._lock = threading.Lock()

    def index(self, more_paths: Sequence[Path] = (), *, override: bool = False, max_age: float = MAX_AGE) -> TaskIndex:
        """The tasks of the server's folders and ``more_paths``, as their files were at most ``max_age`` seconds ago.

        With ``override`` a name in a later folder wins over the same in an earlier one. A folder is scanned again only
        when a file in it was added, removed or changed.
        """
        paths = (*self._include_paths, *more_paths)
        called_at = time.monotonic()
        with self._lock:
            known = self._known.get((paths, override))
            # Whoever waited for the lock while another looked has what it came for.
            if known is not None and known.looked_at >= called_at - max_age:
                return known.index
            looked_at = time.monotonic()
            stamp = _stamp((DEFAULT_FOLDER, *paths))
            if known is None or known.stamp != stamp:
                known = _Known(_scan(paths, override), stamp, looked_at)
            self._known[paths, override] = _Known(known.index, stamp, looked_at)
            self._known.move_to_end((paths, override))
            while len(self._known) > _KEPT_INDEXES:
                self._known.popitem(last=False)
            return known.index


def _scan(paths: Sequence[Path], override: bool) -> TaskIndex:
    started = time.monotonic()
    index = TaskIndex.open(paths, override=override)
    logger.info("task index: %d names in %.2f s", len(index.entries()), time.monotonic() - started)
    for problem in index.problems():
        logger.warning("task file not used: %s: %s", problem.path, problem.reason)
    return index


def _stamp(folders: Sequence[Path]) -> Stamp:
    """What changes when a YAML file below the folders is added, removed or written."""
    found: set[tuple[str, int, int]] = set()
    for folder in folders:
        for current, _, names in os.walk(folder):
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
