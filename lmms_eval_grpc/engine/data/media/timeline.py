"""When each frame of a video is shown."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Timeline:
    """All frames of one video in the order they are shown."""

    times: Sequence[float]
    """For each frame the seconds from the first one; ascending."""
    fps: float
    """Frames a second on average."""
    duration: float
    """Seconds that the frames are shown altogether."""

    @classmethod
    def regular(cls, total: int, fps: float | Fraction) -> Timeline:
        """``total`` frames, each shown equally long."""
        return cls([float(index / fps) for index in range(total)], float(fps), float(total / fps))

    @classmethod
    def measured(cls, times: Sequence[float], announced: Fraction | None) -> Timeline:
        """Frames shown at ``times``. The rate that a container announces counts unless the times belie it."""
        span = times[-1] - times[0]
        rate = Fraction((len(times) - 1) / span) if span > 0 else None
        if announced and (rate is None or abs(announced / rate - 1) < Fraction(1, 20)):
            rate = announced
        rate = rate or Fraction(1)
        return cls(times, float(rate), float(len(times) / rate))

    @property
    def total(self) -> int:
        return len(self.times)

    def window(self, start: float | None, end: float | None) -> tuple[int, int]:
        """Index of the first frame shown from ``start`` on, and the number of frames until ``end``, both in seconds.

        When no frame begins in that time, it is the one that is on display, if any.
        """
        first = 0 if start is None else bisect_left(self.times, start - _ROUNDING)
        behind = self.total if end is None else bisect_right(self.times, end + _ROUNDING)
        if first < behind:
            return first, behind - first
        on_display = start is not None and 0 <= start < max(self.duration, self.times[-1])
        return (first - 1, 1) if on_display and first > 0 else (0, 0)
