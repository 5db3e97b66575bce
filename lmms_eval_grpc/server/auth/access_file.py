"""The file of the access list: one JSON object per line, for the server's user alone.

Who changes it takes a lock and puts a whole new file in its place, so that a server that reads it at any moment sees it
before or after the change.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lmms_eval_grpc.server.auth.entries import BadEntry, Entry, parse_line

_PRIVATE = 0o600


def read_entries(path: Path) -> list[Entry]:
    """The entries, in their order. Raises BadEntry: the file cannot be read, others can read it, or a line is wrong."""
    return [entry for _, entry in _read(path) if entry is not None]


def add_entry(path: Path, entry: Entry, *, another: bool = False) -> None:
    """Adds an entry, and makes the file if there is none.

    Args:
        another: whether the name may have a valid credential already.

    Raises:
        BadEntry: the name has one, or the file is not as it should be.
    """

    def change(lines: list[tuple[str, Entry | None]]) -> list[str]:
        if not another and any(known is not None and known.name == entry.name for _, known in lines):
            raise BadEntry(
                f"{entry.name} has a credential already; revoke it first, or pass --another for a second one beside it"
            )
        return [*(text for text, _ in lines), entry.to_line()]

    _change(path, change, may_be_new=True)


def remove_entries(path: Path, name_or_id: str) -> list[Entry]:
    """Removes all of a name's entries, or the one with an id, and returns them. Raises BadEntry: there is none, or the
    file is not as it should be."""
    removed: list[Entry] = []

    def change(lines: list[tuple[str, Entry | None]]) -> list[str]:
        removed.extend(entry for _, entry in lines if entry is not None and entry.name == name_or_id)
        if not removed:
            removed.extend(entry for _, entry in lines if entry is not None and entry.id == name_or_id)
        if not removed:
            raise BadEntry(f"{path}: there is no {name_or_id!r}; lmms-eval-grpc token list shows the names and ids")
        return [text for text, entry in lines if entry not in removed]

    _change(path, change, may_be_new=False)
    return removed


def _read(path: Path) -> list[tuple[str, Entry | None]]:
    """The file's lines with what they say; comments and empty lines say nothing."""
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise BadEntry(f"{path}: others than its owner have access (mode {mode:04o}); run chmod 600 {path}")
            texts = file.read().splitlines()
    except FileNotFoundError:
        raise BadEntry(f"{path}: there is no such file; lmms-eval-grpc token create makes it") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadEntry(f"{path}: cannot be read: {reason}") from None
    lines: list[tuple[str, Entry | None]] = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append((text, None if not text.strip() or text.startswith("#") else parse_line(text)))
        except BadEntry as error:
            raise BadEntry(f"{path}, line {number}: {error}") from None
    return lines


def _change(path: Path, change: Callable[[list[tuple[str, Entry | None]]], Sequence[str]], *, may_be_new: bool) -> None:
    try:
        if may_be_new:
            path.parent.mkdir(parents=True, exist_ok=True)
        path = path.resolve()  # the file itself is replaced, not a link to it
        with _locked(path):
            lines = change([] if may_be_new and not path.exists() else _read(path))
            _replace(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise BadEntry(f"{path}: cannot be changed: {error.strerror}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _PRIVATE)
    try:
        _give_to_owner(lock, path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _give_to_owner(descriptor: int, path: Path) -> None:
    """Makes an open file that of the owner of ``path``. Only root needs that: what it changes for the server's user
    that user must be able to read, or a token that was revoked would stay valid."""
    try:
        owner = path.stat()
    except FileNotFoundError:
        return
    if os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    try:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _PRIVATE)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor: its mode is right at once)
            _give_to_owner(descriptor, path)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
