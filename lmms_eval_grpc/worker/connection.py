"""A worker's end of the socket to its server."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn

from lmms_eval_grpc.worker.frames import FrameError, FrameReader, write_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob, WorkerCommand, WorkerEvent

logger = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks at what a thread that is busy computing has left to send."""


class ServerConnection:
    """Sends what happens, hears of cancellation, and takes the whole process group down when the server is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(sock)
        self._sending = threading.Lock()
        self._cancelled = threading.Event()
        self._runs: SimpleQueue[RunJob] = SimpleQueue()

    @property
    def cancelled(self) -> bool:
        """Whether the server asked for a stop of the newest job."""
        return self._cancelled.is_set()

    def receive_first(self) -> WorkerCommand:
        """Waits for the first command, which is a job to run or to prepare."""
        try:
            command = self._reader.read(WorkerCommand)
        except FrameError as error:
            _end_group(f"the server's first command cannot be read: {error}")
        if command is None:
            _end_group("the server is gone")
        return command

    def next_run(self) -> RunJob:
        """Waits for the next job to run. Only after :meth:`listen`."""
        return self._runs.get()

    def send(self, event: WorkerEvent) -> None:
        """Sends one event."""
        try:
            with self._sending:  # or two threads' frames would run into each other where the socket is full
                write_frame(self._sock, event)
        except OSError:
            _end_group("the server is gone")

    def listen(self, on_tick: Callable[[], None]) -> None:
        """Starts a thread that takes further commands and calls ``on_tick`` every :data:`TICK` seconds."""
        threading.Thread(target=self._listen, args=(on_tick,), name="server-connection", daemon=True).start()

    def _listen(self, on_tick: Callable[[], None]) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            try:
                while command := self._reader.take(WorkerCommand):
                    self._obey(command)
                if poll.poll(TICK * 1000) and not self._reader.receive():
                    _end_group("the server is gone")
            except (FrameError, OSError) as error:
                _end_group(f"the connection to the server broke: {error}")
            on_tick()

    def _obey(self, command: WorkerCommand) -> None:
        if command.HasField("run"):
            self._cancelled.clear()  # what came before was about another job
            self._runs.put(command.run)
        elif command.HasField("cancel"):
            logger.info("cancellation asked for%s", f": {command.cancel.reason}" if command.cancel.reason else "")
            self._cancelled.set()


def _end_group(why: str) -> NoReturn:
    """Nobody will take the result, and nobody else would clean up: end this process and all that it started."""
    logger.error("%s; ending", why)
    os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)
