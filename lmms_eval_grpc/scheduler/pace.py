"""How fast jobs come and go."""

from __future__ import annotations

_SHORTEST_RETRY, _FIRST_GUESS, _LONGEST_RETRY = 1.0, 5.0, 60.0
_WEIGHT = 0.2
"""Of the newest job in the mean."""


class Pace:
    """When a client that found the queue full should try again, by how long jobs have taken so far."""

    def __init__(self) -> None:
        self._mean_seconds: float | None = None

    def took(self, seconds: float) -> None:
        """Notes how long an attempt took."""
        mean = self._mean_seconds
        self._mean_seconds = seconds if mean is None else (1 - _WEIGHT) * mean + _WEIGHT * seconds

    def retry_after(self, devices: int) -> float:
        """Seconds until a place in the queue is likely to be free. There may be no devices now, in a cluster."""
        if self._mean_seconds is None:
            return _FIRST_GUESS
        return min(max(self._mean_seconds / max(1, devices), _SHORTEST_RETRY), _LONGEST_RETRY)
