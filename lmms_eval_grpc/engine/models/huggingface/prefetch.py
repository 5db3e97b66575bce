"""Preparing the next item in one background thread while the present one is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates over ``source`` in a thread of its own, at most ``depth`` items ahead of the consumer.

    An exception in the source is raised where the item would have been taken. :meth:`close` (or leaving the ``with``
    block) waits for the item that is being made, closes the source and ends the thread; it may be called at any time.
    """

    def __init__(self, source: Iterator[T], depth: int = 1) -> None:
        self._source = source
        self._slots = threading.Semaphore(depth)
        self._ready: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._closed = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
        self._thread.start()

    def _produce(self) -> None:
        try:
            while True:
                self._slots.acquire()
                if self._closed.is_set():
                    return
                self._ready.put((next(self._source), None))
        except BaseException as error:  # StopIteration included: it is how the consumer learns of the end
            self._ready.put((None, error))
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._finished or self._closed.is_set():
            raise StopIteration
        item, error = self._ready.get()
        self._slots.release()
        if error is not None:
            self._finished = True
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        self._closed.set()
        self._slots.release()
        self._thread.join()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
