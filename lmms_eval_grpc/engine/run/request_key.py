"""Which requests are the same: a digest of everything that a model's response depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from lmms_eval_grpc.engine.models.protocol import LoglikelihoodRequest, Request
from lmms_eval_grpc.engine.record.plain_json import to_plain

FORMAT_VERSION = 1

_MEDIA = ("image", "video", "audio")
_ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned before anybody looks at it."""


class UncacheableError(ValueError):
    """What a request shows the model cannot be told by content: a network address, a folder, an unknown object."""


def request_key(request: Request, identity: Mapping[str, Any]) -> str | None:
    """SHA-256 (hexadecimal) of the request's kind, messages, media and arguments, and of ``identity``, the model's.

    Media count by their content, wherever they lie; the task's name does not count, so tasks that ask the same share
    the response. None for a request whose media cannot be digested: a broken one is for the model to complain about.
    """
    try:
        if isinstance(request, LoglikelihoodRequest):
            asked: dict[str, Any] = {"continuation": request.continuation}
        else:
            asked = {"generation": _canonical_arguments(request.generation)}
        asked["messages"] = [_canonical(message) for message in request.messages]
    except Exception:  # Pillow's decoders raise whatever they like
        return None
    parts = {"version": FORMAT_VERSION, "kind": type(request).__name__, "model": to_plain(identity), **asked}
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical_arguments(generation: Mapping[str, Any]) -> dict[str, Any]:
    """``0.0`` and ``0`` mean the same, as do one stop string and a list of it, and None and nothing."""
    arguments = {name: _plain_number(value) for name, value in generation.items() if value is not None}
    if isinstance(arguments.get("until"), str):
        arguments["until"] = [arguments["until"]]
    return {name: to_plain(value) for name, value in arguments.items()}


def _plain_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("type") in _MEDIA:
            return {"type": value["type"]} | {str(key): _media(item) for key, item in value.items() if key != "type"}
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _media(value)


def _media(value: Any) -> Any:
    """``value`` with pictures, files, arrays and bytes as digests of their content. Raises UncacheableError."""
    if isinstance(value, Mapping):
        return {str(key): _media(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_media(item) for item in value]
    if isinstance(value, Image.Image):
        return _picture(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": _digest([value])}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {"array": [str(value.dtype), list(value.shape), _digest([np.ascontiguousarray(value).tobytes()])]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return _file(value)
    if isinstance(value, str):
        return _address(value)
    if value is None or isinstance(value, int | float):
        return value
    raise UncacheableError(f"a {type(value).__name__} has no content that could be digested")


def _picture(image: Image.Image) -> dict[str, Any]:
    content = [image.tobytes()]
    palette = image.getpalette("RGBA") if image.mode == "P" else None
    if palette is not None:
        content.append(bytes(palette))
    transparency = image.info.get("transparency")
    orientation = image.getexif().get(_ORIENTATION)
    return {"picture": [image.mode, image.size, _digest(content), repr(transparency), orientation]}


def _address(address: str) -> Any:
    """A file by its content; any other text, which is a setting of the medium or the medium itself, as it is."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if parts.scheme in ("http", "https", "s3", "gs"):
        raise UncacheableError(f"what is at {parts.scheme}://{parts.hostname} may change")
    if parts.scheme == "data":
        return {"bytes": _digest([address.encode("utf-8", "replace")])}
    path = Path(unquote(parts.path) if parts.scheme == "file" else address)
    try:
        there = path.exists()
    except (OSError, ValueError):  # too long for a name, or a zero byte in it
        there = False
    return _file(path) if there else address


def _file(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UncacheableError(f"{path} is no file")
    with path.open("rb") as file:
        return {"bytes": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest(parts: Iterable[bytes | bytearray | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
