"""What the environment says about decoding: lmms-eval's variables, and this package's own. Imports no library."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

BACKENDS = ("pyav", "torchcodec", "dali")
CACHE_GIB = "LMMS_EVAL_GRPC_MEDIA_CACHE_GIB"
DECODE_GIB = "LMMS_EVAL_GRPC_DECODE_GIB"

_GIB = 1 << 30


def decode_backend() -> str:
    """``$LMMS_VIDEO_DECODE_BACKEND``: pyav (the default), torchcodec or dali."""
    return _choice("LMMS_VIDEO_DECODE_BACKEND", BACKENDS)


def torchcodec_threads() -> int:
    """``$LMMS_VIDEO_TORCHCODEC_THREADS``: threads of a decoder; 0 (the default): torchcodec's own choice."""
    return _number("LMMS_VIDEO_TORCHCODEC_THREADS", 0)


def torchcodec_device() -> str:
    """``$LMMS_VIDEO_TORCHCODEC_DEVICE``: a torch device; cpu by default."""
    return os.environ.get("LMMS_VIDEO_TORCHCODEC_DEVICE") or "cpu"


def dali_on_gpu() -> bool:
    """``$LMMS_VIDEO_DALI_DEVICE``: gpu (the default) or cpu."""
    return _choice("LMMS_VIDEO_DALI_DEVICE", ("gpu", "cpu")) == "gpu"


def dali_device_id() -> int:
    """``$LMMS_VIDEO_DALI_DEVICE_ID``: the number of the GPU; 0 by default."""
    return _number("LMMS_VIDEO_DALI_DEVICE_ID", 0)


def dali_threads() -> int:
    """``$LMMS_VIDEO_DALI_THREADS``: threads of a decoder, at least one; 2 by default."""
    return max(1, _number("LMMS_VIDEO_DALI_THREADS", 2))


def cache_bytes() -> int:
    """``$LMMS_EVAL_GRPC_MEDIA_CACHE_GIB`` in bytes: the bound of the cache on disk, 0 or more; 16 GiB by default."""
    return _gibibytes(CACHE_GIB, 16.0, positive=False)


def cache_folder() -> Path | str | None:
    """``$LMMS_EVAL_GRPC_MEDIA_CACHE``: a folder, ``off``, or None for the usual folder."""
    chosen = os.environ.get("LMMS_EVAL_GRPC_MEDIA_CACHE", "").strip()
    if chosen.lower() == "off":
        return "off"
    return Path(chosen).expanduser() if chosen else None


def decode_limit() -> int:
    """``$LMMS_EVAL_GRPC_DECODE_GIB`` in bytes: frames that are worked on at the same time; 2 GiB by default.

    As much again may be on its way to a server, encoded.
    """
    return _gibibytes(DECODE_GIB, 2.0, positive=True)


def problems() -> list[str]:
    """A sentence for each variable that cannot be meant, with its name, its value and what it may be."""
    readers: tuple[Callable[[], Any], ...] = (
        decode_backend, torchcodec_threads, dali_on_gpu, dali_device_id, dali_threads, cache_bytes, decode_limit,
    )  # fmt: skip
    found = []
    for read in readers:
        try:
            read()
        except ValueError as error:
            found.append(str(error))
    return found


def _choice(variable: str, choices: tuple[str, ...]) -> str:
    """The value in small letters, by default the first. Raises ValueError, as all readers here do."""
    value = os.environ.get(variable, "").strip()
    name = value.lower() or choices[0]
    if name not in choices:
        raise ValueError(f"the environment variable {variable} must be {_any_of(choices)}, but is {value!r}")
    return name


def _any_of(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _number(variable: str, usual: int) -> int:
    text = os.environ.get(variable, "").strip() or str(usual)
    if not text.isdecimal():
        raise ValueError(f"the environment variable {variable} must be a whole number, 0 or more, but is {text!r}")
    return int(text)


def _gibibytes(variable: str, usual: float, *, positive: bool) -> int:
    text = os.environ.get(variable, "").strip() or str(usual)
    try:
        size = int(float(text) * _GIB)
    except (ValueError, OverflowError):
        size = -1
    if size < (1 if positive else 0):
        span = "more than 0" if positive else "0 or more"
        raise ValueError(f"the environment variable {variable} must be a number of GiB, {span}, but is {text!r}")
    return size
