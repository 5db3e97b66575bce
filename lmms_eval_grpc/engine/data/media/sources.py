"""Where the bytes of a medium are: a file on this machine, or bytes in memory."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lmms_eval_grpc.engine.data.media.errors import MediaError, describe


def locate(kind: str, source: Any) -> Path | bytes:
    """The file or the bytes that ``source`` means: a path, a ``file:`` or ``data:`` URL, or bytes themselves.

    ``kind`` names the medium in errors: image, video, audio. Whether the file exists is for the reader to see.
    Raises MediaError for an address on the network and for anything else.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, Path):
        return source
    if not isinstance(source, str):
        message = f"{kind}: expected a path, a URL or bytes, not {type(source).__name__}"
        raise MediaError(message)
    parts = urlsplit(source)
    if parts.scheme == "data":
        header, _, payload = source.partition(",")
        try:
            if header.endswith(";base64"):
                return base64.b64decode(payload, validate=True)
        except binascii.Error as error:
            raise MediaError(f"{kind} {describe(source)} is not valid base64: {error}") from error
        return unquote(payload).encode("latin-1", errors="replace")
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme in ("http", "https"):
        message = f"{kind} {describe(source)} would have to be fetched from the network; give a file instead"
        raise MediaError(message)
    return Path(source)


def require_file(kind: str, place: Path) -> None:
    """Raises MediaError unless ``place`` is a file, or a name that leads to one."""
    try:
        if place.is_file():
            return
        reason = "there is no such file"
    except OSError as error:  # a folder that may not be entered, or text that is too long for a path
        reason = str(error.strerror)
    raise MediaError(f"{kind} {describe(place)}: {reason}")
