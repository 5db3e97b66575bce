"""The life of a server that a job starts: from its start to its health, through one restart, to its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.managed.commands import HOST, ServerCommand
from lmms_eval_grpc.engine.record.redact import REDACTED

GUARD = Path(__file__).with_name("guard.py")

_GRACE = 15.0
"""Seconds that a server gets to end by itself."""
_LOG_LINES = 40
"""Of the log, quoted where the server dies."""
_HEALTH_PERIOD = 0.2
_HEALTH_TIMEOUT = 5.0
_DEATH_TIMEOUT = 5.0
"""Seconds between the end of a server's connections and its process's, at most."""
_RESTARTS = 1
_ANSWERED = re.compile(r'HTTP/1\.[01]" 200')
"""Access log of what went well: a line for each request and each look at its health would hide everything else."""
_PORT_TAKEN = "address already in use"


class ManagedServer:
    """A server process, its log, and its health. Any thread may use it."""

    def __init__(self, command: ServerCommand, key: str, startup_timeout: float) -> None:
        self.port = 0
        self.key = key
        self._command = command
        self._startup_timeout = startup_timeout
        self._generation = 0
        self._lives_until = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._pump: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def start(self) -> None:
        """Returns when the server is healthy. Raises :class:`EvaluationError` ``MODEL_LOAD_FAILED``."""
        with self._lock:
            try:
                for last in (False, True):
                    self.port = _free_port()
                    self._launch()
                    try:
                        self._wait_until_healthy("MODEL_LOAD_FAILED")
                    except EvaluationError as error:
                        # Between finding the port and using it another program can have taken it.
                        if last or _PORT_TAKEN not in error.message.lower():
                            raise
                    else:
                        return
            except BaseException:
                self._end()
                raise

    def generation(self) -> int:
        """How often the server was started again."""
        return self._generation

    def revive(self, generation: int) -> bool:
        """Starts the server again if the one of that generation died; True: there is a newer one.

        False: it lives, so that it is for the requests to be patient. Raises :class:`EvaluationError`
        ``MODEL_SERVER_DIED`` when it died once too often.
        """
        with self._lock:
            if generation < self._generation:
                return True
            assert self._process is not None
            # Many ask at once; one look is enough for all of them.
            if self._closing.is_set() or time.monotonic() < self._lives_until:
                return False
            try:
                self._process.wait(_DEATH_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._lives_until = time.monotonic() + _DEATH_TIMEOUT
                return False
            self._finish_log()
            if self._generation >= _RESTARTS:
                message = f"the {self._command.package} server died again; the end of its log:\n{self._tail()}"
                raise EvaluationError("MODEL_SERVER_DIED", message)
            self._tell(f"the server died and is started again; the end of its log was:\n{self._tail()}")
            self._launch()
            self._wait_until_healthy("MODEL_SERVER_DIED")
            self._generation += 1
            return True

    def close(self) -> None:
        """Ends the server: SIGTERM, and SIGKILL for its whole group when that does not help."""
        self._closing.set()
        with self._lock:
            self._end()

    def _launch(self) -> None:
        self._log.clear()
        self._process = subprocess.Popen(
            # Isolated and without site packages: the guard is to be there in no time.
            [sys.executable, "-I", "-S", str(GUARD), str(_GRACE), *self._command.line(self.port, self.key)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._command.environment},
            process_group=0,
        )
        self._pump = threading.Thread(target=self._pump_log, args=(self._process,), name="server-log", daemon=True)
        self._pump.start()

    def _pump_log(self, process: subprocess.Popen[bytes]) -> None:
        """The server's log goes into the job's, but for the requests that it answered."""
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip().replace(self.key, REDACTED)
            if not _ANSWERED.search(line):
                self._log.append(line)
                self._tell(line)

    def _wait_until_healthy(self, reason: str) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._startup_timeout
        while not self._is_healthy():
            if self._process.poll() is not None:
                self._finish_log()
                raise EvaluationError(reason, f"the {self._command.package} server ended before it was ready; the end"
                                      f" of its log:\n{self._tail()}")  # fmt: skip
            if self._closing.is_set():
                raise EvaluationError(reason, f"the {self._command.package} server was closed before it was ready")
            if time.monotonic() > deadline:
                raise EvaluationError(
                    reason,
                    f"the {self._command.package} server was not ready after startup_timeout = "
                    f"{self._startup_timeout:g} seconds; the end of its log:\n{self._tail()}",
                )
            time.sleep(_HEALTH_PERIOD)

    def _is_healthy(self) -> bool:
        # Not through a proxy, which knows another 127.0.0.1.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{HOST}:{self.port}/health", timeout=_HEALTH_TIMEOUT) as response:
                return bool(response.status == 200)
        except (OSError, ValueError):
            return False

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_GRACE + 5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._finish_log()

    def _finish_log(self) -> None:
        if self._pump is not None:
            # A descendant that left the group can hold the pipe open.
            self._pump.join(timeout=5)

    def _tail(self) -> str:
        return "\n".join(self._log) or "(it said nothing)"

    def _tell(self, line: str) -> None:
        sys.stderr.write(f"[{self._command.package}] {line}\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
