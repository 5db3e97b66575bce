"""What helper processes write, as lines of the server's log: in its form, with time and severity."""

from __future__ import annotations

import asyncio
import logging
import os

logger = logging.getLogger(__name__)

_CHUNK = 65536
_LONGEST_LINE = 8192
"""Bytes after which a line is told in parts."""

_following: set[asyncio.Task[None]] = set()
"""The event loop itself keeps no strong reference to a task."""


class Relay:
    """A pipe, read on the event loop until the process that writes to it has ended."""

    def __init__(self, name: str) -> None:
        """``name`` is the process's, for the log. Raises OSError."""
        self._name = name
        self._rest = b""
        self._readable, self.writable = os.pipe()
        os.set_blocking(self._readable, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._readable, self._take)

    def follow(self, process: asyncio.subprocess.Process) -> None:
        """From now on the process alone writes, and the relay ends with it: its children may hold the pipe longer."""
        os.close(self.writable)
        self.writable = -1
        task = self._loop.create_task(self._until_the_end(process))
        _following.add(task)
        task.add_done_callback(_following.discard)

    def close(self) -> None:
        """Tells what is left, and lets go."""
        while self._take():
            pass
        if self._rest:
            self._tell(self._rest)
        self._loop.remove_reader(self._readable)
        os.close(self._readable)
        if self.writable >= 0:
            os.close(self.writable)

    async def _until_the_end(self, process: asyncio.subprocess.Process) -> None:
        try:
            await process.wait()
        finally:
            self.close()

    def _take(self) -> bool:
        """Tells what has come; whether there may be more."""
        try:
            data = os.read(self._readable, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._readable)  # Nobody can write any more.
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line)
        if len(self._rest) > _LONGEST_LINE:
            self._tell(self._rest)
            self._rest = b""
        return True

    def _tell(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if text:
            logger.info("%s: %s", self._name, text)
