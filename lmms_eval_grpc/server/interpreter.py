"""Python itself, set up for servers for as long as one runs in this process."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator

_SWITCH_AFTER = 0.0001
"""Seconds for which a thread runs Python while another one wants to."""

_lock = threading.Lock()
_servers = 0
_undo: Callable[[], None] | None = None


@contextlib.contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Sets Python up for one busy event loop and a few threads with short work, until the last one who wants that ends.

    It looks for garbage less often, and never in what a started program keeps for good: thousands of open streams are
    many objects, none of them garbage. By default every 700 new ones have some of them looked through again: a fifth of
    the time in which an event is told to all watchers.

    And a thread gets its turn sooner. By default it asks for it after 5 ms, counted anew with every step of the loop,
    which lasts less: while thousands are told something, a submission's check, its write, and every read of the store
    wait until the loop is idle.
    """
    global _servers, _undo
    with _lock:
        _servers += 1
        if _servers == 1:
            _undo = _tune()
    try:
        yield
    finally:
        with _lock:
            _servers -= 1
            if not _servers and _undo is not None:
                _undo()


def _tune() -> Callable[[], None]:
    """Returns what undoes it."""
    threshold, frozen, interval = gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    sys.setswitchinterval(_SWITCH_AFTER)

    def undo() -> None:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
        if not frozen:
            gc.unfreeze()

    return undo
