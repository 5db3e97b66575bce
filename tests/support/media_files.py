"""Videos and recordings whose content is known: each frame shows its own number, each recording is a sine wave."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

_BITS = 12
_BLOCK = 16


def numbered_frame(number: int, height: int = 48, width: int = _BITS * _BLOCK) -> npt.NDArray[np.uint8]:
    """Black, with a white block in the upper half for every bit of ``number``, the lowest one at the left."""
    frame = np.full((height, width, 3), 16, dtype=np.uint8)
    for bit in range(_BITS):
        if number >> bit & 1:
            frame[: height // 2, bit * _BLOCK : (bit + 1) * _BLOCK] = 235
    return frame


def number_in(frame: npt.NDArray[np.uint8]) -> int:
    """The number that :func:`numbered_frame` painted, also after a lossy codec."""
    height = frame.shape[0] // 2
    means = [frame[2 : height - 2, bit * _BLOCK + 3 : (bit + 1) * _BLOCK - 3].mean() for bit in range(_BITS)]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 128)


def write_video(
    place: Path | io.BytesIO,
    count: int,
    *,
    codec: str = "libx264",
    fps: int = 25,
    pixel_format: str = "yuv420p",
    gop: int = 12,
    stamps: Sequence[int] | None = None,
    rotation: int = 0,
    container_format: str | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> None:
    """``count`` numbered frames. ``stamps``: when each is shown, in milliseconds, for a variable frame rate."""
    target: Any = str(place) if isinstance(place, Path) else place
    with av.open(target, "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=codec_options or {})
        stream.width, stream.height = numbered_frame(0).shape[1::-1]
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = gop
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        container.start_encoding()
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def sine(frequency: float, seconds: float, rate: int, amplitude: float = 0.5) -> npt.NDArray[np.float32]:
    """One channel of a pure tone."""
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def write_sound(file: Path, channels: npt.NDArray[np.float32], rate: int, codec: str, *, pictures: int = 0) -> None:
    """``channels`` (two × samples) by any codec of FFmpeg; with ``pictures``, as the sound of a video of so many."""
    with av.open(str(file), "w") as container:
        video = container.add_stream("mpeg4", rate=25) if pictures else None
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        if video is not None:
            video.width, video.height = numbered_frame(0).shape[1::-1]
            video.pix_fmt = "yuv420p"
            for number in range(pictures):
                container.mux(video.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
            container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        size = stream.codec_context.frame_size or 1024
        cutter = av.AudioResampler(format=stream.format, layout="stereo", rate=rate, frame_size=size)
        for piece in [*cutter.resample(frame), *cutter.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
