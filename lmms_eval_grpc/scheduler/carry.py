"""Work that, once begun, is carried to its end even if whoever asked for it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_tasks: set[asyncio.Task[Any]] = set()
"""The event loop itself keeps no strong reference to a task."""


async def carry_through(work: Coroutine[Any, Any, T]) -> T:
    """Runs ``work`` in a task of its own and returns its outcome. A caller that is cancelled stops waiting, no more."""
    if asyncio.current_task() in _tasks:
        return await work  # The caller is carried through itself: nobody cancels it.
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return await asyncio.shield(task)
