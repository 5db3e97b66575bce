"""The parent's end of the process that replicas are forked from."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lmms_eval_grpc.engine import prctl
from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.preload import PRELOAD_ENVIRONMENT
from lmms_eval_grpc.engine.models.replicas import nursery_process

KILL_GRACE = 10.0
"""Seconds that a killed replica may take to be gone."""

_standing: Nursery | None = None
SEARCH_PATH = tuple(sys.path)
"""Where modules are found before the code of tasks, which puts folders of its own there, has run."""


def stand_by(*inherited: socket.socket) -> None:
    """Forks a nursery now, for a model that is loaded later: by then there are threads, and a fork would be unsafe.

    Does nothing in a process that has threads already; replicas then come from a program that imports for itself.

    Args:
        inherited: sockets that the nursery must not hold open.
    """
    global _standing
    if _standing is None and len(os.listdir("/proc/self/task")) == 1:  # noqa: PTH208 - a count, not paths
        _standing = Nursery.fork(inherited)


def standing() -> Nursery | None:
    """The nursery that :func:`stand_by` forked; it serves one model after another."""
    return _standing


class Nursery:
    """Forks replicas, and tells how they ended. For several threads at once."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self._sock = sock
        self._process = process
        self._lock = threading.Lock()

    @classmethod
    def fork(cls, inherited: tuple[socket.socket, ...] = ()) -> Nursery:
        """As a fork of this process, which must have one thread and no device in use: takes milliseconds."""
        ours, theirs = _packet_pair()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            _become_nursery(parent, theirs, (ours, *inherited))
        theirs.close()
        return cls(ours)

    @classmethod
    def execute(cls, search_path: Sequence[str] = SEARCH_PATH) -> Nursery:
        """As a program of its own, which takes as long as the imports; it finds modules in ``search_path``."""
        ours, theirs = _packet_pair()
        environment = os.environ | PRELOAD_ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, search_path))}
        command = [sys.executable, "-m", nursery_process.__name__, "--socket-fd", str(theirs.fileno())]
        with theirs:
            process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        return cls(ours, process)

    def birth(self, number: int, environment: Mapping[str, str], connection: int, output: int) -> int:
        """A new replica's pid.

        Args:
            number: its name in the process list.
            environment: variables to be set in it.
            connection, output: descriptors of its socket and of what it prints to.

        Raises:
            EvaluationError: ``REPLICAS_DIED``.
        """
        command = {"do": "fork", "number": number, "environment": dict(environment)}
        return int(self._ask(command, [connection, output])["pid"])

    def end(self, pids: Sequence[int], grace: float) -> dict[int, int]:
        """Waits up to ``grace`` seconds for the replicas' ends, together, and kills those that are left.

        Returns their exit statuses, minus the signal where one ended them; without those that nobody knows, because
        the nursery is lost or a driver keeps the process. Others may have replicas born or ended meanwhile.
        """
        left, statuses = set(pids), {}
        try:
            for patience in (grace, KILL_GRACE):
                deadline, pause = time.monotonic() + patience, 0.001
                while left:
                    found = self._ask({"do": "reap", "pids": sorted(left)})["ended"]
                    statuses.update(dict(found))
                    left.difference_update(statuses)
                    if not left or time.monotonic() >= deadline:
                        break
                    time.sleep(pause)
                    pause = min(2 * pause, 0.05)
                if left:
                    self._ask({"do": "kill", "pids": sorted(left)})
        except EvaluationError:
            pass
        return statuses

    def close(self) -> None:
        """Ends the nursery and its replicas."""
        self._sock.close()
        if self._process is not None:
            self._process.wait()

    def _ask(self, command: Mapping[str, Any], descriptors: list[int] | None = None) -> dict[str, Any]:
        try:
            with self._lock:
                socket.send_fds(self._sock, [json.dumps(command).encode()], descriptors or [])
                packet = self._sock.recv(nursery_process.MAX_MESSAGE)
        except OSError as error:
            raise _lost(str(error)) from error
        if not packet:
            raise _lost("it died")
        answer: dict[str, Any] = json.loads(packet)
        if "error" in answer:
            raise EvaluationError("REPLICAS_DIED", f"no replica of the model could be started: {answer['error']}")
        return answer


def _packet_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _lost(why: str) -> EvaluationError:
    return EvaluationError("REPLICAS_DIED", f"the process that the model's replicas come from is lost: {why}")


def _become_nursery(parent: int, sock: socket.socket, inherited: tuple[socket.socket, ...]) -> NoReturn:
    try:
        prctl.die_with_parent()
        if os.getppid() == parent:
            for end in inherited:
                end.close()
            nursery_process.serve(sock)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(1)
