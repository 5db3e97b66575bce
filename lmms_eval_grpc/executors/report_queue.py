"""What waits for the reader of an execution's reports."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from lmms_eval_grpc.jobs.events import WorkerReport
from lmms_eval_grpc.jobs.results import Progress


class ReportQueue:
    """A queue with one reader in which a progress replaces an unread one right before it."""

    def __init__(self) -> None:
        self._waiting: deque[WorkerReport] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, report: WorkerReport) -> None:
        """Adds a report."""
        if isinstance(report, Progress) and self._waiting and isinstance(self._waiting[-1], Progress):
            self._waiting.pop()
        self._waiting.append(report)
        self._changed.set()

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        self._changed.set()

    async def read(self) -> AsyncIterator[WorkerReport]:
        """The reports, to the last before :meth:`close`. A reader that gave up may read on."""
        while (report := await self._next()) is not None:
            yield report

    async def _next(self) -> WorkerReport | None:
        while not self._waiting:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()
