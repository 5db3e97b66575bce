"""Judgements on disk, so that the same question is paid for once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE_PATH = "LMMS_EVAL_JUDGE_CACHE"
"""Environment variable with the file of the cache, e.g. one for all evaluations; wins over :func:`use_cache`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer of a judge, as it was given."""

    content: str
    model: str


class JudgeCache:
    """A SQLite file of answers by question. Several threads and processes may use one file at once.

    What cannot be read or written is logged and does without the cache: a full disk must not fail an evaluation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def get(self, key: str) -> CachedAnswer | None:
        try:
            row = self._connection().execute("SELECT content, model FROM answers WHERE key = ?", (key,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            _log.warning("the judge cache %s cannot be read: %s", self.path, error)
            return None
        return CachedAnswer(*row) if row else None

    def put(self, key: str, answer: CachedAnswer) -> None:
        try:
            with self._connection() as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, answer.content, answer.model)
                )
        except (sqlite3.Error, OSError) as error:
            _log.warning("the judge cache %s cannot be written: %s", self.path, error)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=30)
            with contextlib.suppress(sqlite3.OperationalError):  # a network disk may not offer it
                connection.execute("PRAGMA journal_mode=WAL")
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, content TEXT, model TEXT)"
                )
            self._local.connection = connection
        return connection


def cache_key(url: str, payload: Mapping[str, Any]) -> str:
    """SHA-256 of everything that an answer depends on: the judge's address, its model, the messages, the parameters."""
    text = json.dumps({"url": url, "payload": payload}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


_caches: dict[Path, JudgeCache] = {}
_lock = threading.Lock()
_default: Path | None = None


def use_cache(path: Path | None) -> None:
    """Sets the file that judges of this process keep their answers in, where the environment names none; None: none."""
    global _default
    _default = path


def current_cache() -> JudgeCache | None:
    """The cache that judges use now."""
    given = os.environ.get(CACHE_PATH)
    path = Path(given) if given else _default
    if path is None:
        return None
    with _lock:
        return _caches.setdefault(path, JudgeCache(path))
