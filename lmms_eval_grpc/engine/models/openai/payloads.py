"""A bound on the encoded media of requests that are built and not answered yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any


class PayloadGate:
    """Lets requests be built, a few at the same time, as long as those that wait for an answer are not too large.

    The bound may be exceeded by as many requests as are built at the same time. Lives in one event loop.
    """

    def __init__(self, limit: int, builders: int) -> None:
        self.held = 0
        """Bytes of the requests that are built."""
        self._limit = limit
        self._builders = asyncio.Semaphore(builders)
        self._room = asyncio.Event()
        self._room.set()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """To build one request in."""
        async with self._builders:
            await self._room.wait()
            yield

    @contextlib.contextmanager
    def hold(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """To have a request with these messages answered in; to be entered before its turn is over."""
        size = media_bytes(messages)
        self._change(size)
        try:
            yield
        finally:
            self._change(-size)

    def _change(self, size: int) -> None:
        self.held += size
        if self.held < self._limit:
            self._room.set()
        else:
            self._room.clear()


def media_bytes(messages: Sequence[Mapping[str, Any]]) -> int:
    """Characters of the media in messages of OpenAI's API."""
    contents = [message.get("content") for message in messages]
    items = [item for content in contents if isinstance(content, list) for item in content]
    media = [part for item in items for part in item.values() if isinstance(part, Mapping)]
    return sum(len(value) for part in media for value in part.values() if isinstance(value, str))
