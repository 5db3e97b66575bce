"""Telling from an error that the machine has run out of something: memory, a device's or its own, or disk space; and
what to do about it.

Light: knows torch's errors by their names.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal, NamedTuple

_MEMORY_MESSAGES = (
    *("DefaultCPUAllocator", "can't allocate memory", "Cannot allocate memory"),
    # What libraries and kernels ask of the driver themselves, past torch's own allocator.
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "CUDA out of memory"),
)
_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError")
_MEMORY_REMEDY = (
    "use a smaller batch_size or max_batch_size, fewer pixels or frames per sample, more devices (num_gpus), or a"
    " machine with more memory"
)


class Shortage(NamedTuple):
    """What has run out."""

    reason: Literal["OUT_OF_MEMORY", "DISK_FULL"]
    remedy: str


def shortage(error: BaseException, again: str) -> Shortage | None:
    """Want of memory or of disk space, whatever it made fail; None for all else. ``again``: how to try once more when
    there is space, as ``submit the job again``."""
    found = [*causes(error)]
    if getattr(error, "reason", "") == "OUT_OF_MEMORY" or any(map(is_out_of_memory, found)):
        return Shortage("OUT_OF_MEMORY", _MEMORY_REMEDY)
    if any(map(is_disk_full, found)):
        return Shortage("DISK_FULL", f"free space on the disk and {again}")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on any device."""
    if isinstance(error, MemoryError) or any(kind.__name__ in _MEMORY_ERRORS for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _MEMORY_MESSAGES)


def tells_out_of_memory(failure: str) -> bool:
    """Whether a sample's failure, as its record words it, is want of memory."""
    return failure.startswith(_MEMORY_ERRORS) or any(part in failure for part in _MEMORY_MESSAGES)


def is_disk_full(error: BaseException) -> bool:
    """Whether the error says that a disk, or the user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, nearest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
