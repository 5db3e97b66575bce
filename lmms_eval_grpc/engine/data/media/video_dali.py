"""Video by NVIDIA DALI, where that is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_eval_grpc.engine.data.media.environment import dali_device_id, dali_on_gpu, dali_threads
from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.images import fit_frame
from lmms_eval_grpc.engine.data.media.timeline import Timeline
from lmms_eval_grpc.engine.data.media.video_pyav import announced, read_timeline

PART_BYTES = 1 << 28


def decode(
    place: Path | bytes, choose: Callable[[Timeline], list[int]], max_pixels: int | None, name: str
) -> tuple[dict[int, npt.NDArray[np.uint8]], Timeline]:
    """The frames that ``choose`` wants of the timeline, by index. ``name`` is how errors call the video.

    Where and by how many threads is the environment's choice. Raises ImportError where DALI is not installed.
    """
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise ImportError(
            "LMMS_VIDEO_DECODE_BACKEND=dali needs the package nvidia-dali-cuda120 (or that of the installed CUDA); "
            f"install it or use pyav ({error})"
        ) from error
    on_gpu = dali_on_gpu()
    timeline = read_timeline(place, name)
    indices = choose(timeline)
    content = np.frombuffer(place if isinstance(place, bytes) else place.read_bytes(), dtype=np.uint8)
    device = dali_device_id() if on_gpu else None
    threads = dali_threads()

    def decode_part(part: list[int]) -> Any:
        def pipeline() -> Any:
            encoded = fn.external_source(source=lambda: [content], batch=True, dtype=types.UINT8, ndim=1)
            return fn.decoders.video(encoded, device="mixed" if on_gpu else "cpu", frames=part)

        built = pipeline_def(pipeline)(batch_size=1, num_threads=threads, device_id=device)
        built.build()  # fails where there is no GPU, which is no fault of this video
        try:
            (batch,) = built.run()
            return np.asarray((batch.as_cpu() if on_gpu else batch).at(0))
        except RuntimeError as error:
            raise MediaError(f"video {name} cannot be decoded by DALI: {error}") from error

    frames: dict[int, npt.NDArray[np.uint8]] = {}
    for part in split(indices, announced(place)[2] * 3):
        frames |= {index: fit_frame(frame, max_pixels) for index, frame in zip(part, decode_part(part), strict=True)}
    return frames, timeline


def split(indices: list[int], frame_bytes: int) -> list[list[int]]:
    """``indices`` in parts whose frames, which come out in their full size, take at most :data:`PART_BYTES`."""
    size = max(1, PART_BYTES // max(1, frame_bytes))
    return [indices[first : first + size] for first in range(0, len(indices), size)]
