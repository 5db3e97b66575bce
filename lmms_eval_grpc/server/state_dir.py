"""The server's state folder, which belongs to one server at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lmms_eval_grpc.server.config import ServerArgs

LOCK_NAME = "lock"
STORE_NAME = "jobs.sqlite3"
JOBS_NAME = "jobs"
TEMPORARY_NAME = "temporary"
"""Is there in a folder that goes with its server."""

logger = logging.getLogger(__name__)


class ServerStartError(RuntimeError):
    """A server cannot start here. The message says why, and what to do."""


def make_state_dir(args: ServerArgs, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that ``args`` ask for, made if it is not there, readable by this user only."""
    if is_temporary(args):
        remove_abandoned(args.temp_dir_prefix)
        return Path(tempfile.mkdtemp(prefix=args.temp_dir_prefix))
    folder = locate_state_dir(args, environ)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServerStartError(f"state_dir: {folder} cannot be made: {error.strerror}; choose another") from error
    return folder


def locate_state_dir(args: ServerArgs, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the folder is, or will be, that goes with no server."""
    if args.state_dir is not None:
        return args.state_dir.absolute()
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "lmms-eval-grpc"


def is_temporary(args: ServerArgs) -> bool:
    """Whether the folder is to go with the server."""
    return args.state_dir is None and bool(args.temp_dir_prefix)


def mark_temporary(folder: Path) -> None:
    """Lets later servers remove the folder, should this one not come to it. To be called while it is locked."""
    (folder / TEMPORARY_NAME).touch()


def remove_abandoned(prefix: str) -> None:
    """Removes the temporary folders of servers with this prefix that died without doing it."""
    # The prefix may be a path, and may end with a slash.
    example = Path(tempfile.gettempdir(), f"{prefix}x")
    with contextlib.suppress(OSError):
        for folder in example.parent.iterdir():
            if folder.name.startswith(example.name[:-1]) and (folder / TEMPORARY_NAME).is_file():
                _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    lock = StateLock(folder)
    try:
        lock.acquire()
    except ServerStartError:
        return  # Its server runs, or it is another user's.
    try:
        logger.info("removing %s, which a server that died has left behind", folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


class StateLock:
    """A lock on a state folder that ends with the process that holds it, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock. Raises ServerStartError, naming the process, when another server has it."""
        path = self._folder / LOCK_NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServerStartError(f"state_dir: {path} cannot be opened: {error.strerror}; choose another") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ServerStartError(
                f"state_dir: {self._folder} is in use by another server (process {holder});"
                " stop that one, or give this one a state_dir of its own"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Lets go. The file stays: removing it could take it from the next holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
