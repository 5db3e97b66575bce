"""Keeps one template process ready: starts it, replaces it when it dies or hangs, and asks it for workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from lmms_eval_grpc.executors.template_child import ForkedWorker, TemplateChild, TemplateUnavailable, Unforkable

logger = logging.getLogger(__name__)

IMPORT_TIMEOUT = 300.0
"""Seconds that the imports may take, from a slow network file system on a busy machine too."""
HEALTHY_AFTER = 60.0
"""A template that lived this many seconds is restarted without delay, and its earlier deaths are forgotten."""
FIRST_DELAY = 0.5
"""Seconds until a template that failed once is started again; doubled with every further failure in a row."""
LONGEST_DELAY = {True: 600.0, False: 30.0}
"""The most that it comes to. By whether it preloads: jobs can start without that one, and it costs a core for a while;
without the other nothing can."""


class _State(Enum):
    IMPORTING = "importing"
    READY = "ready"
    DOWN = "down"


class TemplateProcess:
    """One template process, and its successors."""

    def __init__(self, *, preload: bool) -> None:
        self._preload = preload
        self._state = _State.DOWN
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._child: TemplateChild | None = None
        self._outgoing: set[asyncio.Task[None]] = set()
        self._trouble = "the template process is not started"

    @property
    def ready(self) -> bool:
        """Whether a worker can be forked right now."""
        return self._state is _State.READY and self._child is not None and not self._child.retired.done()

    @property
    def pid(self) -> int | None:
        """The process that runs now, if any."""
        return None if self._child is None else self._child.pid

    @property
    def trouble(self) -> str:
        """Why it was down the last time that it was."""
        return self._trouble

    def start(self) -> None:
        """Starts the process behind the caller's back. Does nothing if that was done."""
        if self._supervisor is None:
            self._enter(_State.IMPORTING)
            self._stopping = asyncio.get_running_loop().create_future()
            self._supervisor = asyncio.create_task(self._supervise(self._stopping), name="template-supervisor")

    async def usable(self) -> bool:
        """Whether it can fork; waits for the answer while it imports, not while it is down."""
        while self._state is _State.IMPORTING:
            await self._changed.wait()
        return self.ready

    async def fork(self, *, log_path: Path, environment: Mapping[str, str], working_dir: Path) -> ForkedWorker:
        """Makes a worker.

        Raises:
            TemplateUnavailable: the template is not ready or hangs, or the machine has run out of something.
            ForkRefused: the worker's log cannot be written, or the like.
        """
        child = self._child
        if child is None or not self.ready:
            raise TemplateUnavailable("the template process is not ready")
        return await child.fork(log_path=log_path, environment=environment, working_dir=working_dir)

    async def stop(self) -> None:
        """Ends the process with all its workers; returns when nothing is left of them."""
        if self._supervisor is None or self._stopping is None:
            return
        if not self._stopping.done():
            self._stopping.set_result(None)
        await asyncio.wait({self._supervisor})
        self._supervisor = None

    async def _supervise(self, stopping: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not stopping.done():
            self._enter(_State.IMPORTING)
            started = loop.time()
            try:
                self._trouble = await self._run_once(stopping)
            except Unforkable as error:
                self._trouble = str(error)
                logger.warning("%s; every job's worker imports for itself, which takes seconds", error)
                break
            except OSError as error:
                self._trouble = f"the template process could not be started: {error}"
            except Exception as error:
                logger.exception("the template process cannot be supervised")
                self._trouble = f"the template process cannot be supervised: {type(error).__name__}: {error}"
            if stopping.done():
                break
            self._enter(_State.DOWN)
            failures = 1 if loop.time() - started > HEALTHY_AFTER else failures + 1
            delay = min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), LONGEST_DELAY[self._preload])
            logger.warning("%s; jobs wait or start without it meanwhile, next try in %.1f s", self._trouble, delay)
            await asyncio.wait({stopping}, timeout=delay)
        self._enter(_State.DOWN)
        if self._outgoing:
            await asyncio.wait(self._outgoing)

    async def _run_once(self, stopping: asyncio.Future[None]) -> str:
        """Runs one process until it has ended or is retired, and says why."""
        child = self._child = await TemplateChild.start(
            preload=self._preload, on_ready=lambda: self._enter(_State.READY)
        )
        listening = asyncio.create_task(child.listen(), name="template-events")
        patience = asyncio.get_running_loop().call_later(IMPORT_TIMEOUT, child.give_up_unless_ready, IMPORT_TIMEOUT)
        ends: set[asyncio.Future[Any]] = {listening, child.retired, stopping}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        patience.cancel()
        self._child = None
        if child.retired.done() and not listening.done() and not stopping.done():
            outgoing = asyncio.create_task(_see_off(child, listening, stopping), name="template-retired")
            self._outgoing.add(outgoing)
            outgoing.add_done_callback(self._outgoing.discard)
            return child.retired.result()
        status = await _end(child, listening)
        return f"{listening.result()} (exit status {status})" if not listening.cancelled() else "it is being stopped"

    def _enter(self, state: _State) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()


async def _see_off(child: TemplateChild, listening: asyncio.Task[str], stopping: asyncio.Future[None]) -> None:
    """Keeps a template that forks no more for the workers that it has: they would die with it."""
    logger.warning("template process %s is retired; it ends when its workers have ended", child.pid)
    gone = asyncio.create_task(child.workers_gone())
    ends: set[asyncio.Future[Any]] = {gone, listening, stopping}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    childless = gone.done()
    gone.cancel()
    try:
        await _end(child, listening, kill=childless)
    except Exception:
        logger.exception("a retired template process could not be ended")


async def _end(child: TemplateChild, listening: asyncio.Task[str], *, kill: bool = False) -> int:
    listening.cancel()
    await asyncio.wait({listening})
    return await child.end(kill=kill)
