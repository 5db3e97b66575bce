"""An object in a process of its own, on an event loop of its own, with methods that are called from here."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_LONGEST = 300.0
"""Seconds after which a call that has not returned is given up."""


class Remote:
    """One call at a time: :meth:`call`, or :meth:`begin` and later :meth:`result`. A context manager: at its end
    ``close()`` of the object is awaited and the process ends."""

    def __init__(self, make: Callable[..., Any], *arguments: Any, log: Path | None = None) -> None:
        """Calls ``make(*arguments)`` in the new process, whose standard error goes to ``log``."""
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_run, args=(far, make, arguments, log), daemon=True)
        self._process.start()
        far.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What the method returns. Raises RuntimeError with the traceback of what it raises."""
        self.begin(method, *arguments, **options)
        return self.result()

    def begin(self, method: str, *arguments: Any, **options: Any) -> None:
        """Starts a call."""
        self._pipe.send((method, arguments, options))

    def result(self) -> Any:
        """What the call that was begun returns."""
        if not self._pipe.poll(_LONGEST):
            raise RuntimeError(f"no answer after {_LONGEST:.0f} s")
        value, problem = self._pipe.recv()
        if problem is not None:
            raise RuntimeError(problem)
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._pipe.send(("close", (), {}))
            self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...], log: Path | None) -> None:
    if log is not None:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    asyncio.run(_answer(pipe, make, arguments))


async def _answer(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    made = make(*arguments)
    method = ""
    while method != "close":
        try:
            method, positional, options = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return  # Whoever started this process is gone.
        try:
            answer = (await getattr(made, method)(*positional, **options), None)
        except Exception:
            answer = (None, traceback.format_exc())
        await asyncio.to_thread(pipe.send, answer)
