"""The parent's end of one replica: start it, talk to it, pass on what it prints, and say how it ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.protocol import Request
from lmms_eval_grpc.engine.models.replicas.devices import ReplicaDevice
from lmms_eval_grpc.engine.models.replicas.messages import Close, Item, Load, Loaded, Refused
from lmms_eval_grpc.engine.models.replicas.nursery import Nursery

DEATH_GRACE = 5.0
"""Seconds that a replica may take to end after its socket has closed."""
CLOSE_GRACE = 10.0
"""Seconds that a replica may take to free its model."""
TAIL_LINES = 40
TAIL_LINE_LENGTH = 200
"""Lines of a dead replica's output that its error quotes, and the characters of each; a crash shows all its threads."""
MAX_FRUITLESS_DEATHS = 5
"""After so many deaths in a row without an answer in between, a replica is not started again."""


class ReplicaDied(Exception):
    """The process is gone, or said that its device is."""


class Replica:
    """One process with a model. Used by one thread at a time; :meth:`kill` and :meth:`abandon` may come from others."""

    def __init__(self, number: int, device: ReplicaDevice, order: Load, nursery: Nursery) -> None:
        self.number = number
        self.device = device
        self.order = order
        self.given_up = False
        """Whether it is not to be started again."""
        self.loaded: Loaded | None = None
        """What the running process said when it had its model."""
        self.pid: int | None = None
        self._nursery = nursery
        self._fruitless_deaths = 0
        self._connection: Connection | None = None
        self._printer: threading.Thread | None = None
        self._identity: Mapping[str, Any] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()
        self._killed = False
        self._complaint = ""

    @property
    def running(self) -> bool:
        """Whether it was started and nobody has noticed its end."""
        return self._connection is not None

    def start(self) -> None:
        """Starts the process, which begins to load. Raises ReplicaDied, EvaluationError ``REPLICAS_DIED``."""
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        self._tail.clear()
        self._complaint = ""
        try:
            with self._lock:
                if self._killed:
                    raise ReplicaDied
                self.pid = self._nursery.birth(self.number, self.device.environment, theirs.fileno(), write)
        except BaseException:
            ours.close()
            os.close(read)
            raise
        finally:
            theirs.close()
            os.close(write)
        self._connection = Connection(ours.detach())
        self._printer = threading.Thread(target=self._print, args=(read,), name=f"replica-{self.number}", daemon=True)
        self._printer.start()
        self.send(pickle.dumps(self.order))

    def wait_until_loaded(self) -> Loaded:
        """Raises ReplicaDied, and EvaluationError as the registry does, or when a restart brings another model."""
        message = self.receive(refusal_is_death=False)
        assert isinstance(message, Loaded), message
        if self._identity not in (None, message.identity):
            raise EvaluationError(
                "MODEL_LOAD_FAILED", f"the checkpoint {self.order.model_args.get('pretrained')!r} was changed meanwhile"
            )
        self.loaded, self._identity = message, message.identity
        return message

    def send(self, packed: bytes) -> None:
        """Sends a pickled message. Raises ReplicaDied."""
        try:
            self._open_connection().send_bytes(packed)
        except OSError as error:
            raise ReplicaDied from error

    def heard(self, timeout: float = 0.0) -> bool:
        """Whether :meth:`receive` would return at once, within ``timeout`` seconds. Raises ReplicaDied."""
        try:
            return self._open_connection().poll(timeout)
        except OSError as error:
            raise ReplicaDied from error

    def receive(self, *, refusal_is_death: bool = True) -> Any:
        """The next message. Raises ReplicaDied, and EvaluationError for what every replica would refuse; with
        ``refusal_is_death`` a failed device is a death."""
        try:
            message = self._open_connection().recv()
        except (EOFError, OSError) as error:
            raise ReplicaDied from error
        if isinstance(message, Refused):
            if refusal_is_death and message.reason in ("DEVICE_FAILED", "OUT_OF_MEMORY"):
                self._complaint = message.message
                raise ReplicaDied
            raise EvaluationError(message.reason, message.message)
        return message

    def note_fruit(self) -> None:
        """It answered something."""
        self._fruitless_deaths = 0

    def bury(self) -> str:
        """Cleans up after a death, decides whether another start is worthwhile, and returns how it came to its end."""
        (status,) = end_all([self], DEATH_GRACE)
        self._fruitless_deaths += 0 if self._killed else 1
        if self._fruitless_deaths >= MAX_FRUITLESS_DEATHS:
            self.given_up = True
        return self._complaint or _describe(status)

    def tail(self) -> str:
        """The end of what the newest process printed."""
        return "\n".join(self._tail)

    def kill(self) -> None:
        """Ends the process at once, and whatever start is under way; :meth:`revive` allows another."""
        with self._lock:
            self._killed = True
            if self.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def revive(self) -> None:
        """Allows another start after :meth:`kill`."""
        with self._lock:
            self._killed = False

    def abandon(self, complaint: str) -> None:
        """Ends a process that hangs; whoever uses it then finds it dead, of what ``complaint`` says."""
        with self._lock:
            if self.pid is not None and not self._killed:
                self._complaint = complaint
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def ask_to_close(self) -> None:
        """Has a running replica free its model and end."""
        with contextlib.suppress(ReplicaDied):
            if self.running:
                self.send(pickle.dumps(Close()))

    def _take_pid(self) -> int | None:
        """From here on nobody sends signals to this number, which is free once it is reaped."""
        with self._lock:
            pid, self.pid = self.pid, None
        return pid

    def _clean_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self.loaded = None
        if self._printer is not None:
            self._printer.join(timeout=1.0)  # a program that the replica started may hold its output open

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise ReplicaDied
        return self._connection

    def _print(self, descriptor: int) -> None:
        """Passes on what the replica prints, with its number."""
        with open(descriptor, encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                if text := line.rstrip():
                    self._tail.append(text if len(text) <= TAIL_LINE_LENGTH else f"{text[:TAIL_LINE_LENGTH]}…")
                    sys.stderr.write(f"replica {self.number}: {text}\n")


def end_all(replicas: Sequence[Replica], grace: float) -> list[int | None]:
    """Waits up to ``grace`` seconds for the ends of the replicas' processes, together, kills the rest, and cleans up.

    Returns each one's exit status, minus the signal; None for one that was not running, or whose end nobody knows.
    """
    pids = [one._take_pid() if one.running else None for one in replicas]
    running = [pid for pid in pids if pid is not None]
    statuses = replicas[0]._nursery.end(running, grace) if running else {}
    for one in replicas:
        one._clean_up()
    return [None if pid is None else statuses.get(pid) for pid in pids]


def pack(index: int, request: Request) -> bytes:
    """A request as the message that a replica gets. Raises whatever its content makes pickle raise."""
    return pickle.dumps(Item(index, request), protocol=pickle.HIGHEST_PROTOCOL)


def _describe(status: int | None) -> str:
    if status is None:
        return "ended in a way that nobody knows"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    cause = "; if nobody did that on purpose, it was the kernel's out-of-memory killer" if name == "SIGKILL" else ""
    return f"was killed by {name}{cause}"
