"""A wake-up call for any number of waiters, none of which costs the others anything."""

from __future__ import annotations

import asyncio
from collections import deque

_AT_ONCE = 32
"""Waiters woken in one step of the event loop: what else is to be done comes in between, however many they are."""


class Signal:
    """Wakes everybody who waits at that moment.

    What happened is not carried: a waiter looks at the state again, so a slow one costs the notifier nothing.
    """

    def __init__(self) -> None:
        # A future each: one for all would be searched for every waiter that gives up, among all the others. In order:
        # whoever has waited longest is woken first.
        self._waiters: dict[asyncio.Future[bool], None] = {}
        self._called: deque[asyncio.Future[bool]] = deque()

    def notify(self) -> None:
        """Wakes the waiters of now; those who come later wait for the next call."""
        waiters, self._waiters = self._waiters, {}
        waking = bool(self._called)
        self._called.extend(waiters)
        if self._called and not waking:
            self._wake()

    async def wait(self, timeout: float | None) -> bool:
        """Whether the signal came within ``timeout`` seconds (None: however long it takes)."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters[waiter] = None
        timer = None if timeout is None else loop.call_later(timeout, _settle, waiter, False)
        try:
            return await waiter
        finally:
            self._waiters.pop(waiter, None)
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._called))):
            _settle(self._called.popleft(), True)
        if self._called:
            asyncio.get_running_loop().call_soon(self._wake)


def _settle(waiter: asyncio.Future[bool], outcome: bool) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
