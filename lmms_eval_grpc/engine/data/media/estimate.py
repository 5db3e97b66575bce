"""How large a video will be, told by headers before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lmms_eval_grpc.engine.data.media.frames import FramePolicy, select_frames
from lmms_eval_grpc.engine.data.media.sources import locate
from lmms_eval_grpc.engine.data.media.video import FRAMES_A_SECOND_UNSAID, video_content

_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class _Header:
    total: int
    """Frames of the whole video."""
    fps: float
    pixels: int
    """Width × height of a frame."""


def estimate_bytes(
    source: Any,
    policy: FramePolicy,
    *,
    start: float | None = None,
    end: float | None = None,
    max_pixels: int | None = None,
) -> int:
    """About how many bytes the frames take that :func:`.load_video` gives for the same arguments.

    0 for what cannot be read, which :func:`.load_video` will say.
    """
    if isinstance(source, Mapping):
        start = source.get("video_start") if start is None else start
        end = source.get("video_end") if end is None else end
    try:
        content, fps = video_content(source)
        header = _read_file(content) if isinstance(content, (Path, bytes)) else _read_frames(content, fps)
    except Exception:  # whatever libraries raise at files that are none
        return 0
    total, rate = header.total, header.fps
    if start is not None or end is not None:
        behind = total / rate if end is None else end
        total = min(total, max(1, int((behind - (start or 0.0)) * rate) + 1))
    count = len(select_frames(max(1, total), rate, total / rate, policy))
    return count * min(header.pixels, max_pixels or header.pixels) * _CHANNELS


def _read_file(place: Path | bytes) -> _Header:
    from lmms_eval_grpc.engine.data.media.video_pyav import announced  # late: needs a library of its own

    return _Header(*announced(place))


def _read_frames(frames: Sequence[Any] | npt.NDArray[Any], fps: float | None) -> _Header:
    pixels = _pixels_of(frames[0])
    return _Header(len(frames), fps or FRAMES_A_SECOND_UNSAID, pixels)


def _pixels_of(picture: Any) -> int:
    if isinstance(picture, Image.Image):
        return int(picture.width * picture.height)
    if isinstance(picture, np.ndarray):
        return int(np.prod(picture.shape[:2]))
    place = locate("image", picture.get("bytes") or picture.get("path") if isinstance(picture, Mapping) else picture)
    with Image.open(io.BytesIO(place) if isinstance(place, bytes) else place) as opened:
        return int(opened.width * opened.height)
