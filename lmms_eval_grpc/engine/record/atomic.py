"""Files that are either there whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_text(path: Path, lines: Iterable[str]) -> Path:
    """Writes the strings one after another to ``path``, as they are, and returns it.

    They go to a temporary file in the same folder, which is synced and renamed at the end: a crash leaves the old
    file or none, never half of one. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    """The process's file mode mask; mkstemp ignores it and would leave results that only their owner can read."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
