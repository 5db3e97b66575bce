"""Paths in requests, which are paths on the server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lmms_eval_grpc.jobs.errors import Violation


def check_absolute(path: str, field: str) -> Iterator[Violation]:
    """Whether a path means the same for the submitter and the server. An empty one is none."""
    if path and ("\0" in path or not expand(path).is_absolute()):
        yield Violation(field, f"{shown(path)} is not an absolute path; the server has a working folder of its own")


def check_folder(path: str, field: str) -> Iterator[Violation]:
    """Whether a folder is there and can be written to, or can be made. Makes nothing."""
    if not path:
        return
    misplaced = list(check_absolute(path, field))
    if misplaced:
        yield from misplaced
        return
    folder = expand(path)
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not existing.is_dir():
        yield Violation(field, f"{shown(path)} cannot be a folder: {shown(str(existing))} is a file")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Violation(field, f"{shown(path)} cannot be written: the server may not write to {shown(str(existing))}")


def expand(path: str) -> Path:
    """``path`` with ``~`` replaced; as it is where it names a user whom this machine does not know."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def shown(value: object) -> str:
    """``value`` as messages show it."""
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"
