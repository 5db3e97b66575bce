"""Whether a store can be written: from a write that fails until one of its own succeeds it is in trouble."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

PROBE_EVERY = 2.0
"""Seconds between two attempts to write while the last one failed."""

_LOG = logging.getLogger(__name__)


class Trouble:
    """Is told of writes that fail, and then tries one itself every few seconds until it succeeds.

    Others that succeed meanwhile tell nothing: what a full disk still has room for is not what was to be written.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        """``probe`` writes about as much as a job takes, and removes it. Raises what keeps it from that."""
        self._probe = probe
        self._probing: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """What keeps the store from being written; None: nothing that is known."""
        return self._reason

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` whenever the reason has changed, in the event loop."""
        self._listeners.append(listener)

    def failed(self, reason: str, *, passing: bool) -> None:
        """A write has failed. For a reason that may be ``passing`` that is no trouble yet, unless the probe fails."""
        if not passing:
            self._change(reason)
        if self._probing is None:
            self._probing = asyncio.get_running_loop().create_task(self._until_written())

    async def close(self) -> None:
        """Tries no more."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
            self._probing = None
        self._reason = None

    async def _until_written(self) -> None:
        written = False
        while not written:
            await asyncio.sleep(PROBE_EVERY)
            try:
                await self._probe()
                written = True
            except Exception as error:  # want of memory among it; whatever it is, the next attempt tells
                self._change(str(error) or type(error).__name__)
        self._probing = None
        self._change(None)

    def _change(self, reason: str | None) -> None:
        if reason == self._reason:
            return
        if reason is None:
            _LOG.warning("the job store can be written again")
        elif self._reason is None:
            _LOG.warning("the server says that it takes no jobs until that is mended: %s", reason)
        self._reason = reason
        for listener in self._listeners:
            listener()
