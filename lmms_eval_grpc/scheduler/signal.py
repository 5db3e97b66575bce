"""A wake-up call for any number of waiters, none of which costs the others anything."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterable

Waiter = asyncio.Future[bool]

_PATIENCE = 0.02
_SLOW = 0.25
"""Seconds."""

Busy = tuple[int, float]
"""Somebody who is busy: a number, and since when."""


class Turns:
    """Has those who wait for their turn go on, a few in each step of the event loop, whoever came first first: what
    else there is to do comes in between, however many they are. Lives on one event loop.

    Those who say when they are busy are so many at once at most, unless they are slow: after :data:`_PATIENCE` seconds
    without an end nobody waits for them any more, nor after :data:`_SLOW` seconds for one alone. Whoever was slow is
    not to count until it has been quick, or a few of them would have all others go on one by one.
    """

    def __init__(self, at_once: int = 32, most_busy: int = 64) -> None:
        self._at_once = at_once
        self._most_busy = most_busy
        self._waiting: deque[Waiter] = deque()
        self._next: asyncio.Handle | None = None
        # Those who count, by number, with the time of their beginning; who began first comes first.
        self._busy: dict[int, float] = {}
        self._number = 0

    async def take(self) -> None:
        """Returns when it is the caller's turn, in a later step of the event loop."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        self._waiting.append(waiter)
        if self._next is None:
            self._next = loop.call_soon(self._go_on)
        await waiter

    def give(self, waiters: Iterable[Waiter]) -> None:
        """Settles these futures with True, each in its turn; one that is settled meanwhile loses it."""
        self._waiting.extend(waiters)
        if self._next is None:
            self._go_on()

    def begin(self, *, counts: bool = True) -> Busy:
        """Notes that somebody is busy, one of the many or not. What it returns is for :meth:`end`."""
        self._number += 1
        begun = (self._number, time.monotonic())
        if counts:
            self._busy[self._number] = begun[1]
        return begun

    def end(self, begun: Busy) -> bool:
        """Notes that somebody who began is not busy any more, and tells whether that was slow."""
        number, since = begun
        if self._busy.pop(number, None) is not None and self._waiting and len(self._busy) == self._most_busy - 1:
            if self._next is not None:
                self._next.cancel()
            self._next = asyncio.get_running_loop().call_soon(self._go_on)
        return time.monotonic() - since >= _SLOW

    def _go_on(self) -> None:
        if not self._waiting:
            self._next = None
            return
        if self._most_busy - len(self._busy) < self._at_once:
            self._forget_slow()
        left = min(self._at_once, self._most_busy - len(self._busy))
        gone = 0
        while self._waiting and gone < left:
            gone += _settle(self._waiting.popleft(), True)
        loop = asyncio.get_running_loop()
        if left <= 0:
            self._next = loop.call_later(_PATIENCE, self._give_up)
        else:
            self._next = loop.call_soon(self._go_on) if gone else None

    def _forget_slow(self) -> None:
        before = time.monotonic() - _SLOW
        slow = list(itertools.takewhile(lambda number: self._busy[number] <= before, self._busy))
        for number in slow:
            del self._busy[number]

    def _give_up(self) -> None:
        self._busy.clear()
        self._go_on()


class Signal:
    """Wakes everybody who waits at that moment.

    What happened is not carried: a waiter looks at the state again, so a slow one costs the notifier nothing.
    """

    def __init__(self, turns: Turns | None = None) -> None:
        """``turns``: in which the waiters are woken. Signals may share them; None: its own."""
        # A future each: one for all would be searched for every waiter that gives up, among all the others. In order:
        # whoever has waited longest is woken first.
        self._waiters: dict[Waiter, None] = {}
        self._turns = turns or Turns()

    def notify(self) -> None:
        """Wakes the waiters of now; those who come later wait for the next call."""
        if self._waiters:
            waiters, self._waiters = self._waiters, {}
            self._turns.give(waiters)

    async def wait(self, timeout: float | None) -> bool:
        """Whether the signal came within ``timeout`` seconds (None: however long it takes)."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        self._waiters[waiter] = None
        timer = None if timeout is None else loop.call_later(timeout, _settle, waiter, False)
        try:
            return await waiter
        finally:
            self._waiters.pop(waiter, None)
            if timer is not None:
                timer.cancel()


def _settle(waiter: Waiter, outcome: bool) -> bool:
    """Whether it was not settled before."""
    if waiter.done():
        return False
    waiter.set_result(outcome)
    return True
