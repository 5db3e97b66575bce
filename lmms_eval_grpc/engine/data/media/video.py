"""From whatever a message names as a video to the frames that a policy chooses, with their times."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lmms_eval_grpc.engine.data.media.environment import decode_backend
from lmms_eval_grpc.engine.data.media.errors import MediaError, describe
from lmms_eval_grpc.engine.data.media.frames import FramePolicy, select_frames
from lmms_eval_grpc.engine.data.media.images import fit_pixels, load_image
from lmms_eval_grpc.engine.data.media.sources import locate, require_file
from lmms_eval_grpc.engine.data.media.timeline import Timeline

__all__ = [
    "FramePolicy",
    "Video",
    "decoder_version",
    "installed_versions",
    "load_video",
    "select_frames",
]

_FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp"})
FRAMES_A_SECOND_UNSAID = 1.0
"""Of frames that come without a rate."""
_CHANNELS = 3


@dataclass(frozen=True)
class Video:
    """The chosen frames of one video."""

    frames: npt.NDArray[np.uint8]
    """Frames × height × width × 3, RGB, upright."""
    timestamps: tuple[float, ...]
    """For each frame, the seconds from the beginning of the video at which it is shown."""
    fps: float
    """Frames a second of the video itself, not of the choice."""
    duration: float
    """Seconds, of the whole video."""
    indices: tuple[int, ...]
    """For each frame, its place among all frames of the video."""
    total_frames: int
    """How many frames the whole video has."""


_LIBRARIES = {
    "pyav": ("av",),
    "torchcodec": ("torchcodec", "av"),
    "dali": ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "av"),
}


def decoder_version(backend: str) -> str:
    """What is installed of the libraries behind a name of :func:`.decode_backend`, with versions."""
    return installed_versions(_LIBRARIES[backend])


@functools.cache
def installed_versions(distributions: tuple[str, ...]) -> str:
    """Those of ``distributions`` that are installed, with their versions, as one text."""
    found = []
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def load_video(
    source: Any,
    policy: FramePolicy,
    *,
    start: float | None = None,
    end: float | None = None,
    max_pixels: int | None = None,
) -> Video:
    """The frames of ``source`` that ``policy`` chooses, of those between ``start`` and ``end`` (seconds, inclusive).

    ``source`` is a path, a ``file:`` or ``data:`` URL, encoded bytes, or frames: a folder of pictures in the natural
    order of their names, a list of anything that :func:`load_image` takes, or an array (frames × height × width × 3).
    Or a mapping with one of these as ``path``, ``bytes``, ``url`` or ``frames`` and, if it knows them, ``video_start``
    and ``video_end`` in seconds and the ``fps`` of its frames (without, a list is taken for one frame a second).

    ``max_pixels`` bounds width × height of each frame as it is decoded, so that a long video fits into memory.

    Raises MediaError for a file that is missing, is no video, or has no frame in that time.
    """
    if isinstance(source, Mapping):
        start = source.get("video_start") if start is None else start
        end = source.get("video_end") if end is None else end
    if start is not None and end is not None and end < start:
        raise MediaError(f"video {describe(source)}: its end ({end} s) lies before its start ({start} s)")

    def choose(timeline: Timeline) -> list[int]:
        first, count = timeline.window(start, end)
        if count == 0:
            raise MediaError(
                f"video {describe(source)} has no frame between {start or 0:g} s and "
                f"{timeline.duration if end is None else end:g} s; it lasts {timeline.duration:g} s"
            )
        duration = timeline.duration if count == timeline.total else count / timeline.fps
        return [first + index for index in select_frames(count, timeline.fps, duration, policy)]

    content, fps = video_content(source)
    if isinstance(content, (Path, bytes)):
        return _decode(content, choose, max_pixels, describe(source))
    return _from_frames(content, fps, choose, max_pixels, describe(source))


def video_content(source: Any) -> tuple[Path | bytes | Sequence[Any] | npt.NDArray[Any], float | None]:
    """The encoded video, or its frames with their number a second where that is said."""
    if isinstance(source, Mapping):
        for key in ("frames", "bytes", "path", "url"):
            if source.get(key) is not None:
                content, _ = video_content(source[key])
                return content, source.get("fps")
        message = "a video's mapping needs one of frames, bytes, path and url"
        raise MediaError(f"{message}, but has {', '.join(map(str, source)) or 'nothing'}")
    if isinstance(source, (list, tuple, np.ndarray)):
        return source, None
    place = locate("video", source)
    if isinstance(place, Path) and _is_folder(place):
        files = sorted((file for file in place.iterdir() if file.suffix.lower() in _FRAME_SUFFIXES), key=_natural)
        if not files:
            raise MediaError(f"video {describe(place)} is a folder without pictures")
        return files, None
    return place, None


def _is_folder(place: Path) -> bool:
    with contextlib.suppress(OSError):
        return place.is_dir()
    return False


def _natural(file: Path) -> list[tuple[int, int | str]]:
    """A key that puts frame 10 after frame 9."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", file.name)]


def _from_frames(
    frames: Any, fps: float | None, choose: Callable[[Timeline], list[int]], max_pixels: int | None, name: str
) -> Video:
    if isinstance(frames, np.ndarray) and (frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] != 3):
        shape = " × ".join(map(str, frames.shape))
        raise MediaError(f"video {name}: an array must be frames × height × width × 3 of uint8, not {shape}")
    if len(frames) == 0:
        raise MediaError(f"video {name} has no frames")
    timeline = Timeline.regular(len(frames), fps or FRAMES_A_SECOND_UNSAID)
    indices = choose(timeline)
    chosen = [fit_pixels(load_image(frames[index]), None, max_pixels) for index in indices]
    return assemble(dict(zip(indices, map(np.asarray, chosen), strict=True)), timeline)


def _decode(place: Path | bytes, choose: Callable[[Timeline], list[int]], max_pixels: int | None, name: str) -> Video:
    if isinstance(place, Path):
        require_file("video", place)
    # Late: each needs a library of its own, which the others do not.
    backend = importlib.import_module(f"{__package__}.video_{decode_backend()}")
    frames, timeline = backend.decode(place, choose, max_pixels, name)
    return assemble(frames, timeline)


def assemble(frames: dict[int, npt.NDArray[np.uint8]], timeline: Timeline) -> Video:
    """A video from its decoded frames by index, which are taken out of ``frames``.

    Frames of another size than the first are brought to that.
    """
    indices = sorted(frames)
    height, width, _ = frames[indices[0]].shape
    stacked = np.empty((len(indices), height, width, _CHANNELS), dtype=np.uint8)
    for place, index in enumerate(indices):
        frame = frames.pop(index)  # freed one by one, so that they are not all there twice
        same = frame.shape[:2] == (height, width)
        stacked[place] = frame if same else np.asarray(Image.fromarray(frame).resize((width, height)))
    times = tuple(timeline.times[index] for index in indices)
    return Video(stacked, times, timeline.fps, timeline.duration, tuple(indices), timeline.total)
