"""The state folder: its disk, its lock, and the job store in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup, mebibytes
from lmms_eval_grpc.server.state_dir import LOCK_NAME, STORE_NAME, is_temporary

_LEAST_SPACE = 256 << 20
_LITTLE_SPACE = 5 << 30
_SLOW_SYNC = 0.25
_NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs")
)
_NETWORK_BY_FUSE = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs", "fuse.juicefs")
_FLEETING = frozenset({"tmpfs", "ramfs"})


def check_state_dir(setup: Setup) -> Iterator[Finding]:
    """Whether the folder can be made, written and synced, and how much room there is."""
    if is_temporary(setup.args):
        yield ok("state_dir", "a new temporary folder, which goes with the server")
        return
    folder = setup.state_dir
    place = _nearest(folder)
    if not place.is_dir():
        yield failure("state_dir", f"{place} is a file, so {folder} cannot be a folder", "choose another state_dir")
        return
    try:
        seconds = _try_to_write(place)
    except OSError as error:
        yield failure(
            "state_dir",
            f"{place} cannot be written: {error.strerror}",
            "make it writable for the user that the server runs as, or choose another state_dir",
        )
        return
    there = "" if place == folder else f" (it will be made, in {place})"
    if seconds > _SLOW_SYNC:
        yield warning(
            "state_dir",
            f"{folder}{there}: syncing a small file took {seconds:.2f} s, and every job that is taken in waits for one",
            "put state_dir on a local disk",
        )
    else:
        yield ok("state_dir", f"{folder}{there} can be written and synced")
    yield from _check_owner(folder)
    yield from _check_space(place)
    yield from _check_file_system(place)


def _try_to_write(folder: Path) -> float:
    """Seconds that a write and its sync take. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)
        file.flush()
        began = time.monotonic()
        os.fsync(file.fileno())
        return time.monotonic() - began


def _check_owner(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        return
    facts = folder.stat()
    if facts.st_uid != os.geteuid():
        yield warning(
            "state_dir",
            f"{folder} belongs to user {facts.st_uid}, and this is user {os.geteuid()}",
            "run doctor as the user that the server runs as",
        )
    if facts.st_mode & 0o077:
        yield warning(
            "state_dir", f"other users can read or enter {folder}: prompts and answers are there", f"chmod 700 {folder}"
        )


def _check_space(place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    told = f"{mebibytes(free)} are free on the disk of the state folder"
    remedy = "free some, or choose another state_dir; lmms-eval-grpc gc removes ended jobs"
    if free < _LEAST_SPACE:
        yield failure("disk space", told, remedy)
    elif free < _LITTLE_SPACE:
        yield warning("disk space", told, remedy)
    else:
        yield ok("disk space", told)


def _check_file_system(place: Path) -> Iterator[Finding]:
    kind = file_system(place)
    if kind in _NETWORK or kind in _NETWORK_BY_FUSE:
        yield warning(
            "file system",
            f"{place} is on {kind}, a network file system: the job store (SQLite) needs locks and write-ahead logging"
            " that many of them lack, and the lock of the folder may not keep a second server away",
            "put state_dir on a local disk",
        )
    elif kind in _FLEETING:
        yield warning(
            "file system", f"{place} is on {kind}: all jobs are lost at a restart of the machine", "use a disk"
        )
    else:
        yield ok("file system", kind or "unknown")


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that ``path`` is on; empty where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    resolved, best, kind = path.resolve(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        # Of mounts at one place the last counts.
        if resolved.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), after.split()[0]
    return kind


def check_lock(setup: Setup) -> Iterator[Finding]:
    """Whether another server has the state folder."""
    path = setup.state_dir / LOCK_NAME
    if is_temporary(setup.args) or not path.exists():
        yield ok("lock", "no server has this state folder")
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        yield failure("lock", f"{path} cannot be opened: {error.strerror}", "run doctor as the server's user")
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield ok("lock", "no server has this state folder")
    except OSError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        yield failure(
            "lock",
            f"a server has {setup.state_dir} (process {holder})",
            "stop that one, give this one a state_dir of its own, or check that one: doctor --address HOST:PORT",
        )
    finally:
        os.close(descriptor)


def check_store(setup: Setup) -> Iterator[Finding]:
    """Whether the job store can be read."""
    path = setup.state_dir / STORE_NAME
    if is_temporary(setup.args) or not path.exists():
        yield ok("store", "there is none yet")
        return
    from lmms_eval_grpc.store.inspection import find_damage

    problem = find_damage(path)
    if problem is None:
        yield ok("store", f"{path}, {mebibytes(path.stat().st_size)}")
    else:
        what, _, remedy = problem.partition("; ")
        yield failure("store", f"{path}: {what}", remedy or "put a backup in its place, or move it away")


def _nearest(folder: Path) -> Path:
    """``folder``, or what of the way to it is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())
