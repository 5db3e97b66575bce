"""A wake-up call for any number of waiters, which holds nothing for any of them."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits at that moment.

    What happened is not carried: a waiter looks at the state again, so a slow one costs the notifier nothing.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def notify(self) -> None:
        """Wakes the waiters of now; those who come later wait for the next call."""
        if self._future is not None:
            self._future.set_result(None)
            self._future = None

    async def wait(self, timeout: float | None) -> bool:
        """Whether the signal came within ``timeout`` seconds (None: however long it takes)."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        # asyncio.wait never cancels what it waits for: the future is everybody's.
        done, _ = await asyncio.wait({self._future}, timeout=timeout)
        return bool(done)
