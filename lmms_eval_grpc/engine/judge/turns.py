"""Scorers that ask judges run in several threads, but one at a time except while they wait.

Python's and NumPy's generators belong to the process, and what a scorer draws must not depend on what others draw at
the same time. So each has them to itself from its first line on, with a state of its own that it keeps over each wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lmms_eval_grpc.engine.seeds import random_state, set_random_state


class _Turn:
    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.thread = threading.get_ident()
        self.waits = 0
        """How many waits are under way in this thread, where a scorer has several questions open."""
        self.state: Any = None


_turn: ContextVar[_Turn | None] = ContextVar("scorers_turn", default=None)


@contextmanager
def taking_turns(lock: threading.Lock, seed: Callable[[], None]) -> Iterator[None]:
    """Runs a scorer in the block as one of those that share ``lock``. ``seed`` is called before it draws anything."""
    with lock:
        seed()
        token = _turn.set(_Turn(lock))
        try:
            yield
        finally:
            _turn.reset(token)


@contextmanager
def waiting() -> Iterator[None]:
    """Lets other scorers run while the block waits for a judge; does nothing where nobody takes turns."""
    turn = _turn.get()
    if turn is None or turn.thread != threading.get_ident():  # a thread that asks on behalf of a scorer has no turn
        yield
        return
    turn.waits += 1
    if turn.waits == 1:
        turn.state = random_state()
        turn.lock.release()
    try:
        yield
    finally:
        turn.waits -= 1
        if turn.waits == 0:
            turn.lock.acquire()
            set_random_state(turn.state)
