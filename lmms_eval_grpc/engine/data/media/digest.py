"""Digests of media before they are decoded: equal digests, equal content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lmms_eval_grpc.engine.data.digest import digest_value
from lmms_eval_grpc.engine.data.media.errors import MediaError, describe
from lmms_eval_grpc.engine.data.media.sources import locate

_MOST_READ = 8 << 20


def media_digest(kind: str, source: Any) -> str:
    """SHA-256 that tells one source of an image, video or recording from another; ``kind`` is which of them.

    Of bytes, arrays, pictures and files up to 8 MiB it is over their content, so that copies are equal. Larger files
    count by path, size and time of change, as reading them costs more than it gains. Raises MediaError for a file
    that does not exist, and for what is no source of media at all.
    """
    return digest_value([kind, _identity(kind, source)])


def _identity(kind: str, source: Any) -> Any:
    if isinstance(source, Mapping):
        return {str(key): _identity(kind, value) for key, value in source.items() if _counts(key, source)}
    if isinstance(source, (list, tuple)):
        return [_identity(kind, item) for item in source]
    if isinstance(source, np.ndarray):
        return [source.dtype.str, list(source.shape), hashlib.sha256(np.ascontiguousarray(source).data).hexdigest()]
    if isinstance(source, Image.Image):
        return [source.mode, list(source.size), hashlib.sha256(source.tobytes()).hexdigest()]
    if source is None or isinstance(source, (bool, int, float)):
        return source
    place = locate(kind, source)
    return hashlib.sha256(place).hexdigest() if isinstance(place, bytes) else _file(kind, place)


def _counts(key: Any, source: Mapping[Any, Any]) -> bool:
    """Whether an entry of a mapping bears on what is decoded: not the type, nor the name beside the content."""
    if key in ("path", "url"):
        return all(source.get(other) is None for other in ("bytes", "array", "frames"))
    return bool(key != "type")


def _file(kind: str, path: Path) -> Any:
    try:
        if path.is_dir():
            return [_stamp(file) for file in sorted(path.iterdir()) if file.is_file()]
        if path.stat().st_size <= _MOST_READ:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        return _stamp(path)
    except OSError as error:
        raise MediaError(f"{kind} {describe(path)} cannot be read: {error.strerror}") from error


def _stamp(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]
