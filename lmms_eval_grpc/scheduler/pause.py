"""Whether the queue is paused, and why, kept in a file so that a restart does not start what was to wait."""

from __future__ import annotations

import os
from pathlib import Path

from lmms_eval_grpc.jobs.errors import StoreUnavailable


class PauseFile:
    """A file that is there while the queue is paused, and holds the reason. Removing it by hand, while no server runs,
    resumes the queue."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """The reason; None when the queue is not paused. A file that cannot be read stands for a pause too."""
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"({self._path.name} cannot be read: {error.strerror})"

    def write(self, reason: str | None) -> None:
        """Pauses for ``reason``, or resumes for None; durable on return. Raises StoreUnavailable: nothing changed."""
        draft = self._path.with_name(f"{self._path.name}.tmp")
        try:
            if reason is None:
                self._path.unlink(missing_ok=True)
            else:
                with draft.open("w", encoding="utf-8") as file:
                    file.write(reason)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise StoreUnavailable(f"whether the queue is paused cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
