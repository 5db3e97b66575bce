"""A wake-up call for any number of waiters, none of which costs the others anything."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits at that moment.

    What happened is not carried: a waiter looks at the state again, so a slow one costs the notifier nothing.
    """

    def __init__(self) -> None:
        # A future each: one for all would be searched for every waiter that gives up, among all the others.
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wakes the waiters of now; those who come later wait for the next call."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.set_result(None)

    async def wait(self, timeout: float | None) -> bool:
        """Whether the signal came within ``timeout`` seconds (None: however long it takes)."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            # asyncio.wait leaves the future alone when its caller is cancelled: only notify ever settles one.
            await asyncio.wait({waiter}, timeout=timeout)
        finally:
            self._waiters.discard(waiter)
        return waiter.done()
