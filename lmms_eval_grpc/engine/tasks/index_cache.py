"""The index on disk: what each task file declares, remembered until the file or a file that it includes changes.

One JSON file per scanned folder. It is only ever an optimisation: a cache that is missing, torn, of another version or
not writable costs a scan and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.tasks.index_files import TaskFile
from lmms_eval_grpc.engine.tasks.yaml_loader import FunctionReference, Included

_VERSION = 1
_FUNCTION, _DIRECTORY = "!function", "directory"
_CWD = "cwd:"
"""Marks an include's name that was looked up in the working directory first and not found there."""
_ABANDONED_SECONDS = 3600.0
"""Age of a draft that nobody can be writing any more."""

Stamp = list[int]
"""Modification time in nanoseconds, size in bytes, inode."""


def default_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/lmms-eval-grpc``, by default below ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "lmms-eval-grpc"


def stamp_of(status: os.stat_result) -> Stamp:
    return [status.st_mtime_ns, status.st_size, status.st_ino]


class FolderCache:
    """What is remembered of the files below one folder. :meth:`get` answers only for files that did not change."""

    def __init__(self, cache_folder: Path, folder: Path) -> None:
        digest = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:24]
        self.path = cache_folder / f"task_index_{digest}.json"
        self._folder = str(folder.absolute())
        self._known = self._load()
        self._fresh: dict[str, bool] = {}
        self._kept: dict[str, Any] = {}
        self._included: dict[str, Stamp] = {}
        self._changed = False

    def get(self, path: str, stamp: Stamp) -> TaskFile | None:
        """The file's declaration if neither it nor anything that it includes changed since :meth:`put`."""
        known = self._known["files"].get(path)
        if known is None or known["stamp"] != stamp or not all(map(self._is_fresh, known["needs"])):
            return None
        self._kept[path] = known
        return _decode(known["file"])

    def put(self, path: str, stamp: Stamp, file: TaskFile, included: Sequence[Included]) -> None:
        """Remembers ``file``, which includes the given ones; not one that depends on the working directory."""
        encoded = _encode(file)
        if encoded is None or not all(item.path.is_absolute() for item in included):
            return
        needs = []
        for item in included:
            name = str(item.path)
            needs += [name, _CWD + item.name]
            self._included[name] = stamp_of(os.stat(name))  # noqa: PTH116 - hot
        self._kept[path] = {"stamp": stamp, "needs": needs, "file": encoded}
        self._changed = True

    def save(self) -> None:
        """Writes what :meth:`get` and :meth:`put` touched, if that differs from what is on disk. Never raises."""
        if not self._changed and len(self._kept) == len(self._known["files"]):
            return
        needed = {need for item in self._kept.values() for need in item["needs"]}
        stamps = {**self._known["included"], **self._included}
        included = {name: stamp for name, stamp in stamps.items() if name in needed}
        document = {"version": _VERSION, "folder": self._folder, "included": included, "files": self._kept}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}.")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(document, file, separators=(",", ":"))
                Path(name).replace(self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError:
            return  # A full or read-only disk: the next process scans again.

    def _remove_abandoned(self) -> None:
        """Drafts of processes that were killed while they wrote."""
        for draft in self.path.parent.glob(f"{self.path.name}.*"):
            if time.time() - draft.stat().st_mtime > _ABANDONED_SECONDS:
                draft.unlink(missing_ok=True)

    def _is_fresh(self, need: str) -> bool:
        fresh = self._fresh.get(need)
        if fresh is None:
            fresh = self._fresh[need] = self._check(need)
        return fresh

    def _check(self, need: str) -> bool:
        if need.startswith(_CWD):  # a file of that name here would now win
            return not os.path.isfile(need.removeprefix(_CWD))  # noqa: PTH113 - answers for every text
        try:
            return bool(self._known["included"].get(need) == stamp_of(os.stat(need)))  # noqa: PTH116
        except OSError:
            return False

    def _load(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"included": {}, "files": {}}
        try:
            document = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return empty
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            return empty
        if document.get("folder") != self._folder or not _is_sound(document):
            return empty
        return document


def _is_sound(document: Mapping[str, Any]) -> bool:
    """Whether the parts have the shapes that the code relies on, however the file came about."""
    included, files = document.get("included"), document.get("files")
    if not isinstance(included, dict) or not isinstance(files, dict):
        return False
    return all(
        isinstance(item, dict)
        and isinstance(item.get("stamp"), list)
        and isinstance(item.get("needs"), list)
        and all(isinstance(need, str) for need in item["needs"])
        and isinstance(item.get("file"), dict)
        and item["file"].keys() <= _FIELDS
        for item in files.values()
    )


_DEFAULTS = TaskFile()
_FIELDS = frozenset(item.name for item in dataclasses.fields(TaskFile))


def _encode(file: TaskFile) -> dict[str, Any] | None:
    """``file`` as JSON values, defaults left out; None where a value has no such form, e.g. a date in a group."""
    values = {name: getattr(file, name) for name in _FIELDS if getattr(file, name) != getattr(_DEFAULTS, name)}
    try:
        encoded = json.dumps(values, default=_encode_function)
    except (TypeError, ValueError):
        return None
    plain: dict[str, Any] = json.loads(encoded)
    return plain


def _encode_function(value: Any) -> dict[str, str]:
    if isinstance(value, FunctionReference):
        return {_FUNCTION: value.reference, _DIRECTORY: str(value.directory)}
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _decode(values: Mapping[str, Any]) -> TaskFile:
    decoded = dict(values)
    for name in ("members", "tags"):
        if name in decoded:
            decoded[name] = tuple(decoded[name])
    if "group_config" in decoded:
        decoded["group_config"] = _decode_functions(decoded["group_config"])
    return TaskFile(**decoded)


def _decode_functions(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_FUNCTION, _DIRECTORY}:
            return FunctionReference(value[_FUNCTION], Path(value[_DIRECTORY]))
        return {key: _decode_functions(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode_functions(item) for item in value]
    return value
