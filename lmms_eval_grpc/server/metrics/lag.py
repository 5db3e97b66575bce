"""How late the event loop is: everything that the server does waits as long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 0.25
"""Seconds between two looks."""


class LoopLag:
    """Looks at its event loop again and again, from :meth:`start` to :meth:`stop`."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """On the running event loop."""
        self._plan(asyncio.get_running_loop())

    def stop(self) -> None:
        """Idempotent."""
        if self._next is not None:
            self._next.cancel()

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + INTERVAL
        self._next = loop.call_at(due, self._look, loop, due)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._observe(max(0.0, loop.time() - due))
        self._plan(loop)
