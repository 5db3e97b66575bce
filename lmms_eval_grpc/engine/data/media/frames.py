"""Which frames of a video a model sees: policies, and the choice as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Sampling = Literal["uniform", "fps", "first_last", "qwen_vl", "segments"]

_QWEN_MOST_FRAMES = 768
_QWEN_FEWEST_FRAMES = 4


@dataclass(frozen=True)
class FramePolicy:
    """How many frames, and which. Raises ValueError for a number that cannot be meant.

    ``uniform``
        ``max_num_frames`` frames at equal distances from the first to the last; with ``fps`` at most so many a second.
    ``fps``
        Every ``round(native fps / fps)``-th frame from the first; as ``uniform`` when that exceeds ``max_num_frames``.
    ``first_last``
        As ``fps`` where ``fps`` is given, else as ``uniform``; the last frame always among them.
    ``segments``
        As many frames as ``uniform``, each from the middle of an equal part of the video, as InternVL was trained.
    ``qwen_vl``
        As the readers that Qwen's models come with: an even number of frames, positions rounded to the nearest frame,
        and with ``fps`` at least 4 and, unless ``max_num_frames`` says otherwise, at most 768 frames.
    """

    max_num_frames: int | None = 32
    """The most frames; None: every frame, or as many as ``fps`` asks for."""
    fps: float | None = None
    """Frames for each second of the video; None: no such bound."""
    sampling: Sampling = "uniform"

    def __post_init__(self) -> None:
        if self.max_num_frames is not None and self.max_num_frames < 1:
            raise ValueError(f"max_num_frames must be at least 1, but is {self.max_num_frames}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps must be a positive number, but is {self.fps}")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling must be one of {', '.join(get_args(Sampling))}, but is {self.sampling!r}")
        if self.sampling == "fps" and self.fps is None:
            raise ValueError("sampling='fps' needs fps, the frames for each second of the video")


def select_frames(total: int, native_fps: float, duration: float, policy: FramePolicy) -> list[int]:
    """Ascending indices, without repetition and at least one, of the frames that ``policy`` takes from a video.

    ``total`` is the number of its frames, ``native_fps`` of frames a second, and ``duration`` is in seconds. Raises
    ValueError when there is no frame.
    """
    if total < 1:
        raise ValueError("a video without frames has none to choose")
    if policy.sampling == "qwen_vl":
        return _qwen_vl(total, duration, policy)
    if policy.sampling == "segments":
        count = _bounded_count(total, duration, policy)
        return [int((place + 0.5) * total / count) for place in range(count)]
    with_last = policy.sampling == "first_last"
    if policy.sampling == "uniform" or policy.fps is None:
        return _evenly(total, _bounded_count(total, duration, policy), with_last)
    indices = list(range(0, total, max(1, round(native_fps / policy.fps))))
    if with_last and indices[-1] != total - 1:
        indices.append(total - 1)
    if policy.max_num_frames is not None and len(indices) > policy.max_num_frames:
        return _evenly(total, policy.max_num_frames, with_last)
    return indices


def _bounded_count(total: int, duration: float, policy: FramePolicy) -> int:
    count = total if policy.max_num_frames is None else min(total, policy.max_num_frames)
    if policy.fps is not None:
        count = min(count, int(duration * policy.fps))
    return max(1, count)


def _evenly(total: int, count: int, with_last: bool) -> list[int]:
    if with_last and count == 1:
        return [total - 1]
    return [int(index) for index in np.unique(np.linspace(0, total - 1, count, dtype=int))]


def _qwen_vl(total: int, duration: float, policy: FramePolicy) -> list[int]:
    if policy.fps is None:
        wanted: float = total if policy.max_num_frames is None else policy.max_num_frames
    else:
        most = min(_QWEN_MOST_FRAMES if policy.max_num_frames is None else policy.max_num_frames, total)
        wanted = min(max(duration * policy.fps, _QWEN_FEWEST_FRAMES), most // 2 * 2)
    count = max(2, int(min(wanted, total)) // 2 * 2)
    if total < count:
        return list(range(total))
    # In single precision and from both ends, as torch.linspace counts: a position halfway between two frames is
    # rounded by the last bit.
    step = np.float32(total - 1) / np.float32(count - 1)
    places = np.arange(count, dtype=np.float32)
    forward = step * places
    backward = np.float32(total - 1) - step * (np.float32(count - 1) - places)
    positions = np.where(np.arange(count) < count // 2, forward, backward)
    return [int(index) for index in np.unique(np.round(positions).astype(int))]
