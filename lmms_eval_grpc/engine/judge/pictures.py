"""Images of a question to a judge, as the URLs that the protocol wants."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

_QUALITY = 85
_SIGNATURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


def image_url(image: Any) -> str:
    """A URL for ``image``: a PIL image (as JPEG), a file's path, a URL, the bytes of a file, or base64 text.

    Raises TypeError for anything else.
    """
    if hasattr(image, "save") and hasattr(image, "convert"):
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=_QUALITY)
        return _data_url(buffer.getvalue())
    if isinstance(image, str) and image.startswith(("data:", "http://", "https://")):
        return image
    if isinstance(image, bytes):
        return _data_url(_decoded(image) or image)
    if isinstance(image, str) and (data := _decoded(image.encode())) is not None:
        return _data_url(data)
    if isinstance(image, str | Path):
        return _data_url(Path(image).read_bytes())
    raise TypeError(f"an image for a judge must be a PIL image, a path, a URL or bytes, but is {type(image).__name__}")


def _decoded(text: bytes) -> bytes | None:
    """What ``text`` means if it is an image in base64; else None."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return data if _kind(data) else None


def _data_url(data: bytes) -> str:
    return f"data:image/{_kind(data) or 'jpeg'};base64,{base64.b64encode(data).decode()}"


def _kind(data: bytes) -> str | None:
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), None)
