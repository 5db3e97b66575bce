"""Work that, once begun, is carried to its end even if whoever asked for it goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from lmms_eval_grpc.jobs.errors import ServiceError

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_tasks: set[asyncio.Task[Any]] = set()
"""The event loop itself keeps no strong reference to a task."""


async def carry_through(work: Coroutine[Any, Any, T]) -> T:
    """Runs ``work`` in a task of its own and returns its outcome. A caller that is cancelled stops waiting, no more."""
    if asyncio.current_task() in _tasks:
        return await work  # The caller is carried through itself: nobody cancels it.
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return await wait_for(task)


async def wait_for(task: asyncio.Task[T]) -> T:
    """The outcome of ``task``, which goes on if the caller is cancelled; a refusal is then nobody's to be told."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_note_error)
        raise


def _note_error(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ServiceError):
        _LOG.error("a call whose caller went away has failed", exc_info=error)
