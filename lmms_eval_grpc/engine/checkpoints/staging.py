"""A folder that is either there whole or not there at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError


def staging_folder(output: Path) -> Path:
    """Where ``output`` is made: hidden, beside it, so that it can be renamed."""
    return output.parent / f".{output.name}.merging"


@contextlib.contextmanager
def staged(output: Path, before_rename: Callable[[Path], None]) -> Iterator[Path]:
    """A new empty folder, which becomes ``output`` when the block ends; when it fails, nothing is left of it.

    What a crash left of an earlier attempt is removed first. ``before_rename`` is called with the folder when all in it
    is synced to disk.

    Raises:
        EvaluationError: ``OUTPUT_EXISTS``, ``OUTPUT_BUSY``.
    """
    check_free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = staging_folder(output)
    with _locked(folder):
        _empty(folder)
        try:
            yield folder
            for entry in folder.rglob("*"):
                _sync(entry)
            _sync(folder)
            before_rename(folder)
            check_free(output)
            try:
                folder.rename(output)  # refused by the system if something was put there meanwhile
            except OSError as error:
                check_free(output)
                raise EvaluationError("OUTPUT_NOT_WRITABLE", f"{str(output)!r} cannot be made: {error}") from error
            _sync(output.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def check_free(output: Path) -> None:
    """Raises EvaluationError ``OUTPUT_EXISTS`` where there is something already; an empty folder is nothing."""
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise EvaluationError(
            "OUTPUT_EXISTS", f"{str(output)!r} exists already; name another output_path, or remove it"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes ``folder`` and keeps it for this process; the lock goes with the process, however it ends."""
    while True:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                name = folder.name.removeprefix(".").removesuffix(".merging")
                why = f"another merge is writing {str(folder.parent / name)!r}"
                raise EvaluationError("OUTPUT_BUSY", why) from error
            # Whoever held the lock may have renamed or removed what was opened.
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                yield
                return
        finally:
            os.close(descriptor)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
