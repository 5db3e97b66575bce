"""Short work that may touch a disk, off the event loop: as ``asyncio.to_thread``, at a fraction of its cost.

A submission is checked in less time than the default pool takes to hand it to a thread and back; and threads that all
want to run Python at once take turns at a price. So one thread does everything as long as it gets on with it.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_STUCK = 0.05
"""Seconds without anything done after which one more thread is started: a disk may keep the others waiting."""
_IDLE = 10.0
"""Seconds after which a thread without work ends."""


@dataclass(slots=True)
class _Work:
    future: asyncio.Future[Any]
    call: Callable[[], Any] | None
    """None: nobody waits for it any more. Behind work that hangs there may be much that is, so it keeps nothing."""


class Offload:
    """A few threads. Lives on one event loop.

    A caller that is cut off while its work waits leaves, and the work is not begun. Once it has begun, the thread is
    taken until it is done, for one that hangs on a disk cannot be taken back; the others wait.
    """

    def __init__(self, most: int) -> None:
        """``most``: threads, and so pieces of work that are done at once."""
        self._most = most
        self._waiting: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._told = False
        self._finished = 0
        self._watching: asyncio.TimerHandle | None = None

    async def run(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What ``function`` returns or raises. Context variables are as they are here."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        work = _Work(future, lambda: context.run(function, *arguments, **options))
        self._waiting.put(work)
        if self._threads == 0:
            with self._lock:
                if self._threads == 0:
                    self._start(loop)
        if self._watching is None:
            self._watching = loop.call_later(_STUCK, self._watch, loop, self._finished)
        try:
            return await future
        except asyncio.CancelledError:
            work.call = None
            raise

    def _watch(self, loop: asyncio.AbstractEventLoop, finished: int) -> None:
        """Looks, as long as work waits, whether anything is done."""
        self._watching = None
        if self._waiting.empty():
            return
        if finished == self._finished and self._threads < self._most:
            with self._lock:
                self._start(loop)
        self._watching = loop.call_later(_STUCK, self._watch, loop, self._finished)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        threading.Thread(target=self._work, args=(loop,), name="offload", daemon=True).start()
        self._threads += 1

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                work = self._waiting.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._threads -= 1
                        return
                continue
            if (call := work.call) is None:
                continue
            value, problem = None, None
            try:
                value = call()
            except BaseException as error:
                problem = error
            self._done.append((work.future, value, problem))
            self._finished += 1  # Two threads at once may count one: that something was done is all that matters.
            if not self._told:
                self._told = True
                try:
                    loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # The loop is closed: nobody waits any more.
            del work, call, value, problem  # Or they would be kept until the next.

    def _deliver(self) -> None:
        self._told = False
        while self._done:
            future, value, error = self._done.popleft()
            if future.done():
                continue  # Its caller was cancelled.
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)
