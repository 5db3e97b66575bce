"""What the C library's allocator keeps of freed memory, of the whole process and for good.

Does nothing where that is not glibc's, and sets nothing that the environment sets: that is the operator's.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_NEVER = -1
_OWN_MAPPING = 32 << 20
"""Bytes of a block that is mapped for itself, and unmapped when it is freed; glibc too comes to this by itself. Smaller
ones come from the heap, where huge ones would leave huge holes."""


def keep_freed() -> None:
    """From now on the heap stays as large as it ever was. On a CPU, to fault in the same pages again for each batch is
    a twentieth of a small model's time."""
    _set(_M_TRIM_THRESHOLD, _NEVER, "MALLOC_TRIM_THRESHOLD_")
    _set(_M_MMAP_THRESHOLD, _OWN_MAPPING, "MALLOC_MMAP_THRESHOLD_")


def share_heaps() -> None:
    """Threads that start from now on share two heaps. By default nearly each gets one of its own, and each of them
    stays as large as the most that its thread ever needed."""
    _set(_M_ARENA_MAX, 2, "MALLOC_ARENA_MAX")


def give_back_freed() -> None:
    """To the kernel, as much as can be; of 500 MiB within 0.1 s."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _set(parameter: int, value: int, variable: str) -> None:
    libc = _glibc()
    if libc is not None and variable not in os.environ:
        libc.mallopt(parameter, value)


@functools.cache
def _glibc() -> Any | None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    libc.malloc_trim.argtypes = (ctypes.c_size_t,)
    return libc
