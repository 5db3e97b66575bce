"""Video by NVIDIA DALI, where that is installed."""

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

    ``$LMMS_VIDEO_DALI_DEVICE`` is gpu (the default) or cpu, ``$LMMS_VIDEO_DALI_DEVICE_ID`` the number of the GPU, and
    ``$LMMS_VIDEO_DALI_THREADS`` the number of threads. Raises ImportError where DALI is not installed.
    """
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise ImportError(
            "LMMS_VIDEO_DECODE_BACKEND=dali needs the package nvidia-dali-cuda120 (or that of the installed CUDA); "
            f"install it or use pyav ({error})"
        ) from error
    on_gpu = _on_gpu()
    timeline = read_timeline(place, name)
    indices = choose(timeline)
    content = np.frombuffer(place if isinstance(place, bytes) else place.read_bytes(), dtype=np.uint8)

    def pipeline() -> Any:
        encoded = fn.external_source(source=lambda: [content], batch=True, dtype=types.UINT8, ndim=1)
        return fn.decoders.video(encoded, device="mixed" if on_gpu else "cpu", frames=indices)

    device = _number("LMMS_VIDEO_DALI_DEVICE_ID", 0) if on_gpu else None
    built = pipeline_def(pipeline)(
        batch_size=1, num_threads=max(1, _number("LMMS_VIDEO_DALI_THREADS", 2)), device_id=device
    )
    built.build()  # fails where there is no GPU, which is no fault of this video
    try:
        (batch,) = built.run()
        decoded = np.asarray((batch.as_cpu() if on_gpu else batch).at(0))
    except RuntimeError as error:
        raise MediaError(f"video {name} cannot be decoded by DALI: {error}") from error
    return {index: fit_frame(frame, max_pixels) for index, frame in zip(indices, decoded, strict=True)}, timeline


def _on_gpu() -> bool:
    device = os.environ.get("LMMS_VIDEO_DALI_DEVICE", "").strip().lower() or "gpu"
    if device not in ("gpu", "cpu"):
        raise ValueError(f"LMMS_VIDEO_DALI_DEVICE must be gpu or cpu, but is {device!r}")
    return device == "gpu"


def _number(variable: str, usual: int) -> int:
    text = os.environ.get(variable, "").strip() or str(usual)
    if not text.isdecimal():
        raise ValueError(f"{variable} must be a whole number, 0 or more, but is {text!r}")
    return int(text)
