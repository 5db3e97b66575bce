"""Video by torchcodec, where that is installed: seeks by an exact index of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.images import fit_pixels
from lmms_eval_grpc.engine.data.media.timeline import Timeline


def decode(
    place: Path | bytes, choose: Callable[[Timeline], list[int]], max_pixels: int | None, name: str
) -> tuple[dict[int, npt.NDArray[np.uint8]], Timeline]:
    """The frames that ``choose`` wants of the timeline, by index. ``name`` is how errors call the video."""
    # torch is the decoder's; without a working torchcodec the import fails with RuntimeError or OSError too.
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception as error:
        raise ImportError(
            "LMMS_VIDEO_DECODE_BACKEND=torchcodec needs the package torchcodec, built for the installed torch and "
            f"FFmpeg ({error}); install it, or use pyav"
        ) from error
    options: dict[str, Any] = {"device": os.environ.get("LMMS_VIDEO_TORCHCODEC_DEVICE") or "cpu"}
    threads = _threads()
    if threads:
        options["num_ffmpeg_threads"] = threads
    try:
        decoder = VideoDecoder(place if isinstance(place, bytes) else str(place), dimension_order="NHWC", **options)
        total = len(decoder)
        if total == 0:
            raise MediaError(f"video {name} cannot be decoded: it has no frames")
        timeline = _timeline(decoder, total)
        frames = {}
        for index in choose(timeline):
            frame = decoder.get_frame_at(index).data.cpu().numpy()
            if max_pixels is not None and frame.shape[0] * frame.shape[1] > max_pixels:
                frame = np.asarray(fit_pixels(Image.fromarray(frame), None, max_pixels))
            frames[index] = frame
    except (RuntimeError, IndexError) as error:
        raise MediaError(f"video {name} cannot be decoded by torchcodec: {error}") from error
    return frames, timeline


def _timeline(decoder: Any, total: int) -> Timeline:
    announced = decoder.metadata.average_fps
    rate = Fraction(announced).limit_denominator(1001) if announced else None
    if rate:
        return Timeline.regular(total, rate)
    begins = [decoder.get_frame_at(index).pts_seconds for index in range(total)]
    return Timeline.measured([begin - begins[0] for begin in begins], None)


def _threads() -> int:
    """``$LMMS_VIDEO_TORCHCODEC_THREADS``; 0, the default, leaves the number to torchcodec."""
    text = os.environ.get("LMMS_VIDEO_TORCHCODEC_THREADS", "").strip() or "0"
    if not text.isdecimal():
        raise ValueError(f"LMMS_VIDEO_TORCHCODEC_THREADS must be a number of threads, 0 or more, but is {text!r}")
    return int(text)
