"""What is wrong with a medium, in words that name it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MediaError(ValueError):
    """One image, video or recording cannot be read; the message says which and why."""


_LONGEST = 1024  # of a path that is shown whole


def describe(source: Any) -> str:
    """``source`` as an error names it: its path, or what it is; short whatever it holds."""
    if isinstance(source, (str, Path)):
        text = str(source)
        return repr(text if len(text) <= _LONGEST else text[:77] + "...")
    if isinstance(source, Mapping):
        address = source.get("path") or source.get("url")
        if isinstance(address, (str, Path)):
            return describe(address)
        if source.get("bytes") is not None:
            return describe(source["bytes"])
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"of {len(source)} bytes"
    if isinstance(source, (list, tuple)):
        return f"of {len(source)} frames"
    return f"({type(source).__name__})"
