"""Video by torchcodec, where that is installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.images import fit_frame
from lmms_eval_grpc.engine.data.media.timeline import Timeline
from lmms_eval_grpc.engine.data.media.video_pyav import read_timeline


def decode(
    place: Path | bytes, choose: Callable[[Timeline], list[int]], max_pixels: int | None, name: str
) -> tuple[dict[int, npt.NDArray[np.uint8]], Timeline]:
    """The frames that ``choose`` wants of the timeline, by index. ``name`` is how errors call the video.

    ``$LMMS_VIDEO_TORCHCODEC_THREADS`` is the number of threads (0 or unset: torchcodec's own choice), and
    ``$LMMS_VIDEO_TORCHCODEC_DEVICE`` the torch device. Raises ImportError where torchcodec does not work.
    """
    # A torchcodec that does not fit torch or finds no FFmpeg raises RuntimeError or OSError when it is imported.
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception as error:
        raise ImportError(
            "LMMS_VIDEO_DECODE_BACKEND=torchcodec needs the package torchcodec, built for the installed torch, and "
            f"FFmpeg's libraries; install them or use pyav ({error})"
        ) from error
    options: dict[str, Any] = {"device": os.environ.get("LMMS_VIDEO_TORCHCODEC_DEVICE") or "cpu"}
    threads = _threads()
    if threads:
        options["num_ffmpeg_threads"] = threads
    timeline = read_timeline(place, name)
    indices = choose(timeline)
    try:
        decoder = VideoDecoder(place if isinstance(place, bytes) else str(place), dimension_order="NHWC", **options)
        # One by one, so that never more than one frame is held in its full size.
        frames = {index: fit_frame(decoder.get_frame_at(index).data.cpu().numpy(), max_pixels) for index in indices}
    except (RuntimeError, IndexError, ValueError) as error:
        raise MediaError(f"video {name} cannot be decoded by torchcodec: {error}") from error
    return frames, timeline


def _threads() -> int:
    text = os.environ.get("LMMS_VIDEO_TORCHCODEC_THREADS", "").strip() or "0"
    if not text.isdecimal():
        raise ValueError(f"LMMS_VIDEO_TORCHCODEC_THREADS must be a number of threads, 0 or more, but is {text!r}")
    return int(text)
