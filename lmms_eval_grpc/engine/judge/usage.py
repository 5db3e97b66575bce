"""Tokens that judges cost, for the results document."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """What one judge was asked."""

    requests: int = 0
    """Answered by the judge; those from the cache do not count."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached: int = 0
    """Answered from the cache."""


class UsageCounter:
    """Adds up usage by the judge's model; any thread may add."""

    def __init__(self) -> None:
        self._by_model: dict[str, JudgeUsage] = {}
        self._lock = threading.Lock()

    def add(
        self, model: str, *, requests: int = 0, input_tokens: int = 0, output_tokens: int = 0, cached: int = 0
    ) -> None:
        with self._lock:
            had = self._by_model.get(model, JudgeUsage())
            self._by_model[model] = JudgeUsage(
                had.requests + requests,
                had.input_tokens + input_tokens,
                had.output_tokens + output_tokens,
                had.cached + cached,
            )

    def by_model(self) -> dict[str, JudgeUsage]:
        with self._lock:
            return dict(self._by_model)

    def reset(self) -> None:
        with self._lock:
            self._by_model.clear()


USAGE = UsageCounter()
"""Of this process."""
