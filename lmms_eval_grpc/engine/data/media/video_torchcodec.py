"""Video by torchcodec, where that is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_eval_grpc.engine.data.media.environment import torchcodec_device, torchcodec_threads
from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.images import fit_frame
from lmms_eval_grpc.engine.data.media.timeline import Timeline
from lmms_eval_grpc.engine.data.media.video_pyav import read_timeline


def decode(
    place: Path | bytes, choose: Callable[[Timeline], list[int]], max_pixels: int | None, name: str
) -> tuple[dict[int, npt.NDArray[np.uint8]], Timeline]:
    """The frames that ``choose`` wants of the timeline, by index. ``name`` is how errors call the video.

    Where and by how many threads is the environment's choice. Raises ImportError where torchcodec does not work.
    """
    # A torchcodec that does not fit torch or finds no FFmpeg raises RuntimeError or OSError when it is imported.
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception as error:
        raise ImportError(
            "LMMS_VIDEO_DECODE_BACKEND=torchcodec needs the package torchcodec, built for the installed torch, and "
            f"FFmpeg's libraries; install them or use pyav ({error})"
        ) from error
    options: dict[str, Any] = {"device": torchcodec_device()}
    threads = torchcodec_threads()
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
