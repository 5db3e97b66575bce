"""Processes as Linux shows them in ``/proc``: who belongs to a worker, is a number still the process it was, kill all.

A worker leads a session and a process group of its own, so its number names all three. What it starts belongs to it
too, also when it left the group: descendants are followed while the worker lives, and programs that it started carry
its :data:`MARKER` in their environment for ever.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MARKER = "LMMS_EVAL_GRPC_WORKER"
"""Environment variable that every worker sets to a value of its own."""

SERVER_MARKER = "LMMS_EVAL_GRPC_SERVER"
"""Environment variable of all that a server starts: which server that was."""

IDENTITY_FILE = "worker.json"
"""File in a job's folder that names the worker that runs it."""

TELL_WHERE = signal.SIGUSR1
"""Has a worker write the stacks of all its threads to its log, also while no Python code of it runs."""

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    start_ticks: int
    """Clock ticks between the machine's boot and the process's start: with the pid, unique until the next boot."""

    @property
    def alive(self) -> bool:
        """Whether it still holds anything: a zombie does not."""
        return self.state not in "ZX"


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """A worker, so that it can be told from a later process with the same number."""

    pid: int
    pgid: int
    start_ticks: int
    boot_id: str
    marker: str


def read_process(pid: int) -> Process | None:
    """The process with this number; None when there is none. Raises OSError when that cannot be told."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may itself hold brackets and blanks; the fields after it hold neither.
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0], int(fields[19]))


def list_processes() -> list[Process]:
    """All processes that this one can see."""
    numbers = (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - ten times faster than Path
    return [process for pid in numbers if (process := read_process(pid)) is not None]


def identify(pid: int, marker: str) -> WorkerIdentity | None:
    """What tells this worker from later processes; None when it is gone."""
    process = read_process(pid)
    return None if process is None else WorkerIdentity(pid, process.group, process.start_ticks, _boot_id(), marker)


def write_identity(job_dir: Path, identity: WorkerIdentity) -> None:
    """Writes ``worker.json``, whole or not at all."""
    path = job_dir / IDENTITY_FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(identity)), encoding="utf-8")
    temporary.replace(path)


def read_identity(job_dir: Path) -> WorkerIdentity | None:
    """What :func:`write_identity` wrote; None when there is no such file or it cannot be understood."""
    try:
        return WorkerIdentity(**json.loads((job_dir / IDENTITY_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove_identity(job_dir: Path) -> None:
    """Removes ``worker.json``, half-written ones too: nothing of the worker is left."""
    path = job_dir / IDENTITY_FILE
    for file in (path, path.with_suffix(".tmp")):
        file.unlink(missing_ok=True)


def members(identity: WorkerIdentity) -> list[Process]:
    """Every live process of this worker: its session, its group, its descendants, programs that carry its marker.

    A process that merely has the same number by now is none of them. Raises OSError when the process table cannot be
    read, for example for want of file descriptors: nobody is gone for that.
    """
    if identity.boot_id != _boot_id():
        return []
    table = {process.pid: process for process in list_processes()}
    leader = table.get(identity.pid)
    reused = leader is not None and leader.start_ticks != identity.start_ticks
    found: set[int] = set()
    if not reused:
        # While a group or session has members, the kernel gives its number to no new process; and members cannot be
        # older than the leader was.
        found = {
            process.pid
            for process in table.values()
            if identity.pid in (process.pid, process.group, process.session)
            and process.start_ticks >= identity.start_ticks
        }
        found |= _descendants(table.values(), found)
    # Looking at the environment of every process would cost more than all the rest; none that began before the worker
    # can have its marker.
    later = {pid for pid, process in table.items() if process.start_ticks >= identity.start_ticks}
    found |= {pid for pid in later - found if _carries(pid, identity.marker)}
    return [table[pid] for pid in sorted(found) if table[pid].alive]


def kill_members(identity: WorkerIdentity) -> list[Process]:
    """Sends SIGKILL to every live process of this worker and returns them, without waiting for their end."""
    found = members(identity)
    for process in found:
        kill(process.pid)
    return found


def end_members(identity: WorkerIdentity, timeout: float) -> list[Process]:
    """Kills every process of this worker and waits for their end, which a process that waits for a device driver does
    not come to before the driver answers. Blocks.

    Returns:
        Those that are there still after ``timeout`` seconds.
    """
    return _repeat(lambda: kill_members(identity), timeout)


def server_marker() -> str:
    """The value of :data:`SERVER_MARKER` for what this process starts: no other process ever has the same."""
    process = read_process(os.getpid())
    return f"{_pid_namespace()}.{os.getpid()}.{process.start_ticks if process else 0}"


def end_orphans(timeout: float) -> list[int]:
    """Kills what servers that are gone have left behind, such as a template that hung when its server was killed, and
    waits for the end. Blocks.

    Returns:
        Those that are there still after ``timeout`` seconds.
    """

    def kill_orphans() -> list[int]:
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir(_PROC))) if _is_orphan(pid)]  # noqa: PTH208
        for pid in found:
            kill(pid)
        return found

    return _repeat(kill_orphans, timeout)


def kill_tree(root: int, timeout: float = math.inf) -> None:
    """Kills all descendants of ``root``, but not ``root`` itself, until none is left or ``timeout`` seconds are over.
    Reaps nobody."""

    def kill_descendants() -> list[int]:
        found = [pid for pid in _descendants(list_processes(), {root}) if _is_alive(pid)]
        for pid in found:
            kill(pid)
        return found

    _repeat(kill_descendants, timeout)


def tell_where(identity: WorkerIdentity) -> bool:
    """Asks the worker to write to its log where it is; False when it is gone."""
    process = read_process(identity.pid)
    if process is None or not process.alive or process.start_ticks != identity.start_ticks:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(identity.pid, TELL_WHERE)
        return True
    return False


def bytes_read(pids: Iterable[int]) -> int:
    """What these processes have read so far, from anywhere; those that cannot be asked count nothing."""
    return sum(map(_bytes_read, pids))


def _bytes_read(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    # Files that are mapped into memory, as weights are, count where they come from a disk.
    return int(counts.get("rchar", 0)) + int(counts.get("read_bytes", 0))


def kill(pid: int) -> None:
    """Sends SIGKILL; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _repeat(kill_all: Callable[[], list[T]], timeout: float) -> list[T]:
    deadline = time.monotonic() + timeout
    pause = 0.001
    while (left := kill_all()) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return left


def _descendants(processes: Iterable[Process], roots: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        for pid in children.get(pending.pop(), ()):
            if pid not in found:
                found.add(pid)
                pending.append(pid)
    return found


def _carries(pid: int, marker: str) -> bool:
    return f"{MARKER}={marker}".encode() in _environment(pid)


def _is_orphan(pid: int) -> bool:
    """Whether a server started it that is gone. What was started elsewhere, in a container say, where other processes
    have the numbers of these, is not."""
    prefix = f"{SERVER_MARKER}=".encode()
    told = next((entry.removeprefix(prefix).decode() for entry in _environment(pid) if entry.startswith(prefix)), "")
    namespace, _, rest = told.partition(".")
    server_pid, _, start_ticks = rest.partition(".")
    if namespace != _pid_namespace() or not server_pid.isdigit() or not _is_alive(pid):
        return False
    server = read_process(int(server_pid))
    return server is None or not server.alive or str(server.start_ticks) != start_ticks


def _environment(pid: int) -> list[bytes]:
    """The variables that a program was started with, as ``NAME=value``; empty when that cannot be told."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def _is_alive(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and process.alive


def _pid_namespace() -> str:
    try:
        return str((_PROC / "self" / "ns" / "pid").stat().st_ino)
    except OSError:
        return "0"


@cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
