"""Group commit: one thread that writes, and one transaction for everything that waits while the last one is synced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

Operation = Callable[[sqlite3.Connection], Any]
CommitObserver = Callable[[float, int], None]
"""Is told of each commit, in the writing thread: how many seconds it took, and how many operations it holds."""

_MAX_BATCH = 512
"""Operations in one transaction: bounds what is redone when one of them breaks the transaction."""


@dataclass(slots=True)
class _Request:
    operation: Operation
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    value: Any = None
    error: BaseException | None = None


class GroupWriter:
    """Runs operations on one connection in the order in which they were submitted.

    An operation that raises fails its own caller only: the transaction is run again with a savepoint for each, by which
    that one is undone. When the transaction as a whole is lost (the disk is full), its operations are tried again one
    by one, so that only those fail that do not fit. While another process holds the file for too long, all fail.
    """

    def __init__(self, connection: sqlite3.Connection, committed: CommitObserver | None = None) -> None:
        """Takes over ``connection``, which must be in autocommit mode and usable from another thread."""
        self._connection = connection
        self._committed = committed
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._closed = False
        self.commits = 0
        """Transactions committed so far."""
        self._thread.start()

    async def write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Runs ``operation`` and returns its value once it is durable. It may run more than once: it must depend on the
        database only, and must not end the transaction."""
        if self._closed:
            raise sqlite3.ProgrammingError("the store is closed")
        loop = asyncio.get_running_loop()
        request = _Request(operation, loop, loop.create_future())
        self._requests.put(request)
        value: T = await request.done
        return value

    async def close(self) -> None:
        """Finishes what was submitted before, then closes the connection."""
        if not self._closed:
            self._closed = True
            self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        open_for_more = True
        while open_for_more:
            first = self._requests.get()
            batch: list[_Request] = []
            if first is None:
                open_for_more = False
            else:
                batch.append(first)
            while open_for_more and len(batch) < _MAX_BATCH:
                try:
                    following = self._requests.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    open_for_more = False
                else:
                    batch.append(following)
            if batch:
                self._commit(batch)
                _tell(batch)
        self._connection.close()

    def _commit(self, batch: list[_Request]) -> None:
        # Nearly always nothing goes wrong, and savepoints would be half of the statements.
        problem = self._attempt(batch, self._run_all)
        if problem is None:
            return
        if getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            # Another process holds the file. To wait for it again for each would take as many times as long.
            for request in batch:
                request.error = problem
            return
        if len(batch) > 1 and self._attempt(batch, self._run_guarded) is None:
            return
        for request in batch:
            request.error = self._attempt([request], self._run_all)

    def _attempt(self, batch: list[_Request], run: Callable[[list[_Request]], None]) -> BaseException | None:
        """Runs and commits ``batch``; returns why the transaction as a whole was lost, None if it was not."""
        connection = self._connection
        began = time.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
            run(batch)
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                # A rollback that fails leaves the transaction open; then BEGIN fails next time, and we are here again.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            return error
        self.commits += 1
        if self._committed is not None:
            try:
                self._committed(time.monotonic() - began, len(batch))
            except Exception:
                _LOG.exception("what follows commits has failed")  # Without this thread nothing would be written.
        return None

    def _run_all(self, batch: list[_Request]) -> None:
        """Lets the first operation that raises raise."""
        for request in batch:
            request.value = request.operation(self._connection)

    def _run_guarded(self, batch: list[_Request]) -> None:
        """Keeps what an operation raises for its caller, and undoes what it did."""
        connection = self._connection
        for request in batch:
            request.value, request.error = None, None
            connection.execute("SAVEPOINT operation")
            try:
                request.value = request.operation(connection)
            except BaseException as error:
                if not connection.in_transaction:
                    raise  # SQLite has rolled everything back by itself.
                request.error = error
                connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")


def _tell(batch: list[_Request]) -> None:
    """Wakes the callers, one call into their event loop for all of them."""
    loops = {request.loop for request in batch}
    for loop in loops:
        ours = [request for request in batch if request.loop is loop]
        try:
            loop.call_soon_threadsafe(_settle, ours)
        except RuntimeError:
            continue  # That loop is closed: nobody waits there any more. What was written stays written.


def _settle(requests: list[_Request]) -> None:
    for request in requests:
        if request.done.done():
            continue  # Its caller was cancelled.
        if request.error is not None:
            request.done.set_exception(request.error)
        else:
            request.done.set_result(request.value)
