"""Preparing what comes next in background threads while the present item is used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

FEWEST_THREADS, MOST_THREADS = 2, 8


def count_threads() -> int:
    """How many threads prepare: one for each core that this process may use but one, within bounds.

    Two even on one core, because much of the work is waiting for files.
    """
    return max(FEWEST_THREADS, min(MOST_THREADS, len(os.sched_getaffinity(0)) - 1))


class Demand:
    """What the consumer wants just now, for whoever makes the items."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        """How many of the items can be worked on at the same time."""
        self.waiting = False
        """Whether it has nothing to do and nothing for it is being made."""
        self.closed = False
        """Whether it wants nothing any more."""


class Prefetcher(Generic[T]):
    """The items that ``source`` begins, in its order, at most ``depth`` of them begun before they are taken.

    ``source`` runs in a thread of its own and gives each item as a future: its work, or part of it, is done by the
    executor that it is called with, which has ``threads`` threads. An exception in the source, or of an item, is raised
    where the item would have been taken. :meth:`close` (or leaving the ``with`` block) waits for what is being worked
    on at that moment and for nothing else, and ends all threads; it may be called at any time.
    """

    def __init__(
        self, source: Callable[[Executor, Demand], Iterator[Future[T]]], *, threads: int = 1, depth: int | None = None
    ) -> None:
        self._demand = Demand(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
        self._source = source(self._pool, self._demand)
        self._slots = threading.Semaphore(threads + 1 if depth is None else depth)
        self._ready: SimpleQueue[Future[T] | BaseException] = SimpleQueue()
        self._finished = False
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
        self._thread.start()

    def _produce(self) -> None:
        try:
            while True:
                self._slots.acquire()
                if self._demand.closed:
                    return
                self._ready.put(next(self._source))
        except BaseException as error:  # StopIteration included: it is how the consumer learns of the end
            self._ready.put(error)
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._finished or self._demand.closed:
            raise StopIteration
        self._demand.waiting = self._ready.empty()
        item = self._ready.get()
        self._demand.waiting = False
        self._slots.release()
        if isinstance(item, BaseException):
            self._finished = True
            raise item
        return item.result()

    def close(self) -> None:
        self._demand.closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._slots.release()
        self._thread.join()
        self._pool.shutdown()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
