"""Texts by key on disk, for caches: shared by threads and processes, and never worth a failure."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path

BUSY_SECONDS = 30.0
"""How long another process's lock is waited for; a write takes milliseconds."""

_log = logging.getLogger(__name__)


class KeyValueFile:
    """A SQLite file of texts by key. Any number of threads and processes may use one file at once.

    What was put survives a ``kill -9`` of this process. A file that is damaged, locked for good or cannot be written
    is logged once and left alone from then on: nothing is found in it any more, and nothing kept.
    """

    def __init__(self, path: Path, purpose: str) -> None:
        """Opens nothing yet. ``purpose`` is what the log calls the file, such as ``judge cache``."""
        self.path = path
        self._purpose = purpose
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._given_up = False

    def get(self, key: str) -> str | None:
        """The text under ``key``; None when there is none, or the file is of no use."""
        with self._lock:
            if self._given_up:
                return None
            try:
                row = self._open().execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
            except (sqlite3.Error, OSError) as error:
                self._give_up("read", error)
                return None
        return str(row[0]) if row else None

    def put(self, values: Mapping[str, str]) -> None:
        """Keeps ``values``, all in one transaction; what was under a key is replaced."""
        with self._lock:
            if self._given_up or not values:
                return
            try:
                with self._open() as connection:
                    connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", values.items())
            except (sqlite3.Error, OSError) as error:
                self._give_up("written", error)

    def close(self) -> None:
        """For good: whoever comes later finds nothing, and keeps nothing."""
        with self._lock:
            self._given_up = True
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
            self._connection = connection
            with contextlib.suppress(sqlite3.OperationalError):  # a network disk may not offer it
                connection.execute("PRAGMA journal_mode=WAL")
            # A power failure may cost the newest entries; a process that dies costs none.
            connection.execute("PRAGMA synchronous=NORMAL")
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
                )
        return self._connection

    def _give_up(self, what: str, error: Exception) -> None:
        _log.warning("the %s %s cannot be %s and is not used any more: %s", self._purpose, self.path, what, error)
        self._given_up = True
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
