"""The end of a worker's log, for people who ask why a job failed."""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 4096

# After a crash, Python's fault handler adds this line, which is longer than the traceback that people look for.
_NOISE = b"Extension modules: "
_READ_BYTES = 8 * MAX_BYTES


def read_log_tail(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """At most ``max_bytes`` of UTF-8 from the end of the file, from the start of a line where there is one.

    Bytes that are not UTF-8 are left out. An absent or unreadable file has an empty end.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _READ_BYTES))
            data = file.read(_READ_BYTES)
    except OSError:
        return ""
    data = b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(_NOISE))
    if len(data) > max_bytes:
        cut = data[-max_bytes:]
        _, newline, rest = cut.partition(b"\n")
        data = rest if newline and rest else cut
    return data.decode("utf-8", errors="ignore")
