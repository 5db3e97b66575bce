"""A wake-up call for any number of waiters, none of which costs the others anything."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable

Waiter = asyncio.Future[bool]

_PATIENCE = 0.02
_SLOW = 0.25
_COURTESY = 1.0
"""Seconds."""

Busy = tuple[int, float]
"""Somebody who is busy: a number, and since when."""


class Turns:
    """Has those who wait for their turn go on, a few in each step of the event loop, whoever came first first: what
    else there is to do comes in between, however many they are. Lives on one event loop.

    Those who say when they are busy are so many at once at most, unless they are slow: after :data:`_PATIENCE` seconds
    without room nobody waits for them any more, nor after :data:`_SLOW` seconds for one alone. Whoever was slow is not
    to count until it has been quick, or a few of them would have all others wait that long every time.

    A quarter as many are busy, and half as many go on at once, for :data:`_COURTESY` seconds after others have come:
    these wait for what is under way at every step they take.
    """

    def __init__(self, at_once: int = 32, most_busy: int = 128) -> None:
        self._bounds = self._wide = (at_once, most_busy)
        self._narrow = (max(1, at_once // 2), max(1, most_busy // 4))
        self._others_came = -math.inf
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

    def give_way(self) -> None:
        """Notes that others have come, who do not wait for a turn."""
        self._others_came = time.monotonic()

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
        # Once there is room for as many as go on at once: to have each go on alone would take as long as what it does.
        at_once, most_busy = self._bounds
        room = self._busy.pop(number, None) is not None and len(self._busy) == max(0, most_busy - at_once)
        if room and self._waiting:
            if self._next is not None:
                self._next.cancel()
            self._next = asyncio.get_running_loop().call_soon(self._go_on)
        return time.monotonic() - since >= _SLOW

    def _go_on(self) -> None:
        if not self._waiting:
            self._next = None
            return
        courteous = time.monotonic() - self._others_came < _COURTESY
        at_once, most_busy = self._bounds = self._narrow if courteous else self._wide
        if most_busy - len(self._busy) < at_once:
            self._forget_slow()
        left = min(at_once, most_busy - len(self._busy))
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


class Alarm:
    """Ends the waits of one who waits again and again, once one of them lasts too long. Lives on one event loop.

    Its timer runs on from wait to wait: to start and to cancel one for each takes as long as to be woken. For the same
    reason it does not ask for the running loop each time, which asks the system for the process.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: Waiter | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def waiter(self, seconds: float | None) -> Waiter:
        """Of the next wait: in so many seconds (None: never) it is settled with False, unless it is settled by then or
        there is another one."""
        self._waiter = waiter = self._loop.create_future()
        if seconds is None:
            self.cancel()
            return waiter
        self._due = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._due:
            self.cancel()
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._ring)
        return waiter

    def cancel(self) -> None:
        """Settles nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return  # The next wait starts a timer of its own.
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._ring)
        else:
            _settle(self._waiter, False)


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

    async def wait(self, timeout: float | None, alarm: Alarm | None = None) -> bool:
        """Whether the signal came within ``timeout`` seconds (None: however long it takes).

        Args:
            alarm: of a caller that waits often; it sees to its end.
        """
        own = None
        if alarm is None:
            alarm = own = Alarm()
        waiter = alarm.waiter(timeout)
        self._waiters[waiter] = None
        try:
            return await waiter
        finally:
            self._waiters.pop(waiter, None)
            if own is not None:
                own.cancel()


def _settle(waiter: Waiter, outcome: bool) -> bool:
    """Whether it was not settled before."""
    if waiter.done():
        return False
    waiter.set_result(outcome)
    return True
