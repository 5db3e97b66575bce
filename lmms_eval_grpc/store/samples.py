"""Reading a job's sample records from its folder, also while its worker appends to them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from lmms_eval_grpc.jobs.errors import InvalidRequest, StoreUnavailable, Violation
from lmms_eval_grpc.store.base import SampleBatch

FILE_NAME = "samples.jsonl"

_LOG = logging.getLogger(__name__)
_LINE_STEP = 1 << 20
"""Bytes read at a time while looking for the end of a line that is larger than a whole batch may be."""


class FileSampleStore:
    """A :class:`~lmms_eval_grpc.store.base.SampleStore` over ``<job_dir>/samples.jsonl``.

    A cursor is the byte offset just behind a line. A last line without its end is still being written: it is not there
    yet, and the next read starts with it.
    """

    async def read(self, job_dir: Path, after_cursor: int, max_bytes: int) -> SampleBatch:
        """See :meth:`SampleStore.read`.

        Raises:
            InvalidRequest: ``after_cursor`` is not the end of a record.
            StoreUnavailable: the file cannot be read.
        """
        try:
            return await asyncio.to_thread(read_samples, job_dir / FILE_NAME, after_cursor, max_bytes)
        except OSError as error:
            raise StoreUnavailable(f"the job's sample records cannot be read: {error.strerror}") from error


def read_samples(path: Path, after_cursor: int, max_bytes: int) -> SampleBatch:
    """What :meth:`FileSampleStore.read` tells of one file. Raises InvalidRequest, OSError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        # Not written yet, or never: there is one cursor that can have come from here.
        if after_cursor != 0:
            raise _bad_cursor(after_cursor) from None
        return SampleBatch((), 0)
    with file:
        _seek(file, after_cursor)
        cursor = after_cursor
        while lines := _whole_lines(file, max_bytes):
            cursor += len(lines)
            records = tuple(record for record in map(_parse, lines.split(b"\n")[:-1]) if record is not None)
            if records:
                return SampleBatch(records, cursor)
            file.seek(cursor)  # Nothing but damaged lines; an empty batch would say that this is the end.
    return SampleBatch((), cursor)


def _seek(file: BinaryIO, cursor: int) -> None:
    if cursor == 0:
        return
    if cursor < 0 or cursor > os.fstat(file.fileno()).st_size:
        raise _bad_cursor(cursor)
    file.seek(cursor - 1)
    if file.read(1) != b"\n":
        raise _bad_cursor(cursor)


def _whole_lines(file: BinaryIO, max_bytes: int) -> bytes:
    """The lines that end within ``max_bytes``, or the first one if that is longer; empty if none has ended yet."""
    chunk = file.read(max_bytes)
    end = chunk.rfind(b"\n") + 1
    if end:
        return chunk[:end]
    parts = [chunk]
    while more := file.read(_LINE_STEP):
        end = more.find(b"\n") + 1
        parts.append(more[:end] if end else more)
        if end:
            return b"".join(parts)
    return b""


def _parse(line: bytes) -> Mapping[str, object] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        return record
    # A worker that was killed in the middle of a line leaves one; its sample is answered and written again.
    _LOG.warning("left out a line of %d bytes that is not a sample record", len(line))
    return None


def _bad_cursor(cursor: int) -> InvalidRequest:
    return InvalidRequest(
        [Violation("after_cursor", f"{cursor} is not a cursor of this job; use a next_cursor of its stream, or 0")]
    )
