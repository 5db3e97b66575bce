"""What the C library's allocator keeps of freed memory. Says and does nothing where that is not glibc's."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_NEVER = (1 << 31) - 1
_OWN_MAPPING = 32 << 20
"""Bytes of a block that is mapped for itself, and unmapped when it is freed; glibc too comes to this by itself. Smaller
ones come from the heap, where huge ones would leave huge holes."""


class _Usage(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def keep_freed() -> None:
    """From now on the heap stays as large as it ever was. On a CPU, to fault in the same pages again for each batch is
    a twentieth of a small model's time."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING)


def share_heaps() -> None:
    """From now on all threads share two heaps. By default nearly each gets one of its own, and each of them stays as
    large as the most that its thread ever needed."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, 2)


def give_back_freed() -> None:
    """To the kernel, as much as can be."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def count_freed() -> int:
    """Bytes of the heap that are free; nearly all of them count as this process's memory."""
    libc = _glibc()
    return 0 if libc is None else int(libc.mallinfo2().fordblks)


@functools.cache
def _glibc() -> Any | None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):  # of glibc 2.33
        return None
    libc.mallinfo2.restype = _Usage
    libc.malloc_trim.argtypes = (ctypes.c_size_t,)
    return libc
