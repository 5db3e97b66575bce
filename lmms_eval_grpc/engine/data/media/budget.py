"""A bound on the memory that decoded videos take while threads work on them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from lmms_eval_grpc.engine.data.media.cache import media_cache
from lmms_eval_grpc.engine.data.media.environment import decode_limit
from lmms_eval_grpc.engine.data.media.estimate import estimate_bytes
from lmms_eval_grpc.engine.data.media.frames import FramePolicy
from lmms_eval_grpc.engine.data.media.video import Video


class ByteBudget:
    """Bytes that several threads share. Who comes first is served first, so a large wish is not passed over."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._tickets = itertools.count()
        self._queue: deque[int] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Waits until ``size`` bytes are free; more than there ever are is given to one who is alone then.

        Not to be held while another is waited for.
        """
        with self._changed:
            ticket = next(self._tickets)
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] == ticket and self._has_room(size))
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return self._held == 0 or self._held + size <= self.limit


@functools.cache
def decode_budget() -> ByteBudget:
    """The budget of this process: ``$LMMS_EVAL_GRPC_DECODE_GIB``. Raises ValueError where that is no size."""
    return ByteBudget(decode_limit())


@contextlib.contextmanager
def open_video(
    source: Any,
    policy: FramePolicy,
    *,
    start: float | None = None,
    end: float | None = None,
    max_pixels: int | None = None,
) -> Iterator[Video]:
    """As :meth:`.MediaCache.video`, with room for its frames in the budget of this process while it is open.

    What is kept of the frames beyond that should be smaller than they are.
    """
    size = estimate_bytes(source, policy, start=start, end=end, max_pixels=max_pixels)
    with decode_budget().hold(size):
        yield media_cache().video(source, policy, start=start, end=end, max_pixels=max_pixels)
