"""A window of requests, answered side by side in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator

from lmms_eval_grpc.engine.models.protocol import Answer

LOOKAHEAD = 8
"""Requests that are built, or wait for another attempt, beyond those that may be open."""
GROUP = 64
"""Answers that are handed on together, at most."""
_TICK = 0.5
"""Seconds after which an empty group is handed on, so that whoever waits can decide not to."""

Emit = Callable[[Answer], None]


async def answer_all(
    count: int, answer: Callable[[int], Awaitable[Answer]], room: Callable[[], int], emit: Emit
) -> None:
    """Calls ``answer`` for each index below ``count`` once, in order, at most ``room()`` at the same time.

    An exception of one ends all; nothing is left running then, nor after a cancellation.
    """
    running: set[asyncio.Task[Answer]] = set()

    async def settle(most: int) -> None:
        nonlocal running
        while len(running) > most:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            failures = [failure for task in done if (failure := task.exception())]
            for task in done:
                if not task.exception():  # an answer that is there counts, though another request ends it all
                    emit(task.result())
            if failures:
                raise failures[0]

    async def one(index: int) -> Answer:
        return await answer(index)

    try:
        for index in range(count):
            await settle(max(1, room()) - 1)
            running.add(asyncio.create_task(one(index)))
        await settle(0)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def stream(work: Callable[[Emit], Awaitable[None]]) -> Iterator[list[Answer]]:
    """What ``work`` emits in an event loop of its own thread, in groups as it comes, an empty one now and then.

    Raises what ``work`` raises. Closing the iterator cancels ``work`` and waits for its end.
    """
    run = _Run(work)
    try:
        yield from run.groups()
    finally:
        run.stop()


class _Run:
    def __init__(self, work: Callable[[Emit], Awaitable[None]]) -> None:
        self._work = work
        self._queue: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        self._thread.start()

    def groups(self) -> Iterator[list[Answer]]:
        while True:
            group: list[Answer] = []
            end: BaseException | bool | None = False
            try:
                item = self._queue.get(timeout=_TICK)
                while isinstance(item, Answer):
                    group.append(item)
                    if len(group) == GROUP:
                        break
                    item = self._queue.get_nowait()
                else:
                    end = item
            except queue.Empty:
                pass
            if group or end is False:
                yield group
            if isinstance(end, BaseException):
                raise end
            if end is None:
                return

    def stop(self) -> None:
        self._started.wait()
        if self._loop is not None and self._task is not None:
            try:
                self._loop.call_soon_threadsafe(self._task.cancel)
            except RuntimeError:
                pass  # the loop has ended by itself
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
            self._queue.put(None)
        except asyncio.CancelledError:
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._started.set()
        await self._work(self._queue.put)
