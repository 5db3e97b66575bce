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
_ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned before anybody looks at it."""


def media_digest(kind: str, source: Any) -> str:
    """SHA-256 that tells one source of an image, video or recording from another; ``kind`` is which of them.

    Of bytes, arrays, pictures and files up to 8 MiB it is over their content, so that copies are equal. Larger files
    count by path, size and time of change, as reading them costs more than it gains. Raises MediaError for a file
    that does not exist, and for what is no source of media at all.
    """
    return digest_value([kind, _identity(kind, source)])


def _identity(kind: str, source: Any) -> Any:
    if isinstance(source, Mapping):
        return _mapping(kind, source)
    if isinstance(source, (list, tuple)):
        return [_identity(kind, item) for item in source]
    if isinstance(source, np.ndarray):
        return [source.dtype.str, list(source.shape), hashlib.sha256(np.ascontiguousarray(source).data).hexdigest()]
    if isinstance(source, Image.Image):
        # As it looks: with the colours that its numbers mean, and the turn that its file asks for.
        look = [source.getpalette("RGBA") if source.mode == "P" else None, source.getexif().get(_ORIENTATION)]
        return [source.mode, list(source.size), hashlib.sha256(source.tobytes()).hexdigest(), *look]
    if source is None or isinstance(source, (bool, int, float)):
        return source
    place = locate(kind, source)
    return hashlib.sha256(place).hexdigest() if isinstance(place, bytes) else _file(kind, place)


def _mapping(kind: str, source: Mapping[Any, Any]) -> Any:
    """The content and what else is said of it; a path beside the content does not count, nor does the type."""
    said = {key: value for key, value in source.items() if value is not None and key != "type"}
    content = next((said[key] for key in ("array", "frames", "bytes", "path", "url") if key in said), None)
    for key in ("array", "frames", "bytes", "path", "url"):
        said.pop(key, None)
    identity = _identity(kind, content)
    return [identity, {str(key): _plain(kind, value) for key, value in said.items()}] if said else identity


def _plain(kind: str, value: Any) -> Any:
    return value if isinstance(value, str) else _identity(kind, value)


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
