"""Keeps a worker's log from filling the disk, whatever the worker prints: its beginning and its end stay, the middle is
given back to the file system.

What stays keeps its place in the file, so that readers who remember an offset can go on: the gap is a hole
(``server.streams`` skips it), and the file grows in length only.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024 * 1024
"""What a log may take on disk before it is shortened."""
INTERVAL = 0.5
"""Seconds between two looks at how large it is."""
_KEPT_HEAD = 1024 * 1024
_KEPT_TAIL = 16 * 1024 * 1024
_PAGE = 4096
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


async def keep_log_short(path: Path) -> None:
    """Shortens the log whenever it is too long, until cancelled, and once more then."""
    try:
        while True:
            await asyncio.sleep(INTERVAL)
            await asyncio.to_thread(_shorten, path)
    finally:
        await asyncio.to_thread(_shorten, path)


def _shorten(path: Path) -> None:
    try:
        missing = bound_log(path)
    except OSError as error:
        logger.warning("%s cannot be shortened: %s", path, error)
    else:
        if missing:
            logger.warning("%s is too long; %d bytes of it are left out", path, missing)


def bound_log(path: Path, max_bytes: int = MAX_BYTES, kept_head: int = _KEPT_HEAD, kept_tail: int = _KEPT_TAIL) -> int:
    """Shortens the log if it takes more than ``max_bytes``; returns how many bytes of it are missing now, 0 if it was
    short enough or there is none. Where the file system knows no holes, all but the beginning goes."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    if status.st_blocks * 512 <= max_bytes:
        return 0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = _round(kept_head) + _PAGE
        missing = _round(size - kept_tail) - start
        if missing <= 0:
            return 0
        if _libc.fallocate(file.fileno(), _PUNCH_HOLE | _KEEP_SIZE, start, missing) != 0:
            os.truncate(file.fileno(), start)
            missing = size - start
        # The page before the gap says what is missing; what stood there is a part of that.
        notice = f"\n… {missing + _PAGE} bytes of output are left out here: the log may take {max_bytes} bytes …\n"
        os.pwrite(file.fileno(), notice.encode().ljust(_PAGE), start - _PAGE)
    return missing + _PAGE


def _round(offset: int) -> int:
    return offset // _PAGE * _PAGE
