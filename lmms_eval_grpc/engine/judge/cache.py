"""Judgements on disk, so that the same question is paid for once."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.key_value_file import KeyValueFile

CACHE_PATH = "LMMS_EVAL_JUDGE_CACHE"
"""Environment variable with the file of the cache, e.g. one for all evaluations; wins over :func:`use_cache`."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer of a judge, as it was given."""

    content: str
    model: str


class JudgeCache:
    """A file of answers by question. Several threads and processes may use one file at once.

    What cannot be read or written is logged and does without the cache: a full disk must not fail an evaluation.
    """

    def __init__(self, path: Path) -> None:
        self._file = KeyValueFile(path, "judge cache")

    def get(self, key: str) -> CachedAnswer | None:
        text = self._file.get(key)
        try:
            return None if text is None else CachedAnswer(**json.loads(text))
        except (ValueError, TypeError):  # not written by this class
            return None

    def put(self, key: str, answer: CachedAnswer) -> None:
        self._file.put({key: json.dumps({"content": answer.content, "model": answer.model})})

    def close(self) -> None:
        self._file.close()


def cache_key(url: str, payload: Mapping[str, Any]) -> str:
    """SHA-256 of everything that an answer depends on: the judge's address, its model, the messages, the parameters."""
    text = json.dumps({"url": url, "payload": payload}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


_named: dict[Path, JudgeCache] = {}
"""Those that the environment named; they last as long as the process."""
_lock = threading.Lock()
_default: JudgeCache | None = None


def use_cache(path: Path | None) -> None:
    """Sets the file that judges of this process keep their answers in, where the environment names none; None: none.

    The file that was set before is closed: a judge that answers later keeps nothing in it.
    """
    global _default
    with _lock:
        before, _default = _default, None if path is None else JudgeCache(path)
    if before is not None:
        before.close()


def current_cache() -> JudgeCache | None:
    """The cache that judges use now."""
    given = os.environ.get(CACHE_PATH)
    with _lock:
        return _named.setdefault(Path(given), JudgeCache(Path(given))) if given else _default
