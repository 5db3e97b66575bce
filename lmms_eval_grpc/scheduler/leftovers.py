"""Files and folders among the jobs' that nobody needs: what crashes leave behind.

Of ended jobs' folders that is what was to be renamed or removed at the end of a write. A folder that no job belongs to
is another matter: perhaps the database was moved away, or an older backup was put in its place, and those are results.
Such a folder is marked, removed when the mark is :data:`KEPT_WITHOUT_JOB` old, and left in peace when its job is back.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.jobs.state import JobState

_LOG = logging.getLogger(__name__)

MARK = ".without_job"
"""Empty file in a folder that no job belongs to; its age says for how long that has been so."""
KEPT_WITHOUT_JOB = 7 * 86400.0
"""Seconds for which such a folder is kept."""
_OF_WORKER = frozenset({scratch.FOLDER, scratch.MERGED_CHECKPOINT})
"""Folders in a job's that nobody needs once the job has ended."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something to be removed."""

    path: Path
    size: int
    """Bytes in it."""


def list_folders(jobs_dir: Path) -> list[str]:
    """Names of the folders in the jobs' folder. Ask for the jobs that there are afterwards: but for those with secrets,
    which come a moment earlier, no folder is made before its job is in the store."""
    try:
        return sorted(entry.name for entry in os.scandir(jobs_dir) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def find_leftovers(
    jobs_dir: Path, folders: list[str], states: Mapping[str, JobState | None], *, mark: bool
) -> list[Leftover]:
    """What is to be removed of these folders.

    Args:
        jobs_dir: folder of the jobs' folders.
        folders: names of those to look at.
        states: state of every job in the store.
        mark: whether to keep the marks of folders without a job up to date.
    """
    found: list[Path] = []
    unowned = []
    for name in folders:
        folder = jobs_dir / name
        try:
            if name not in states:
                if _without_job_since(folder, mark=mark) > KEPT_WITHOUT_JOB:
                    found.append(folder)
                else:
                    unowned.append(name)
                continue
            if mark:
                (folder / MARK).unlink(missing_ok=True)
            state = states[name]
            if state is not None and state.ended:
                found.extend(_unfinished_writes(folder))
        except OSError as error:
            _LOG.warning("%s cannot be looked through for leftovers: %s", folder, error.strerror)
    if unowned:
        days = KEPT_WITHOUT_JOB / 86400
        _LOG.warning(
            "%d folders in %s belong to no job and are removed once that has been so for %g days: %s",
            *(len(unowned), jobs_dir, days, ", ".join(unowned[:10]) + (", …" if len(unowned) > 10 else "")),
        )
    return [Leftover(path, size_of(path)) for path in found]


def remove_leftover(leftover: Leftover) -> bool:
    """Whether it could be removed."""
    try:
        if leftover.path.is_dir() and not leftover.path.is_symlink():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        _LOG.warning("%s is left over and cannot be removed: %s", leftover.path, error)
        return False
    return True


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what vanishes meanwhile counts nothing."""
    if path.is_symlink() or not path.is_dir():
        return _file_size(path)
    return sum(_file_size(Path(root) / name) for root, _, names in os.walk(path) for name in names)


def _file_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _without_job_since(folder: Path, *, mark: bool) -> float:
    """Seconds since it was first seen that no job belongs to the folder."""
    try:
        return time.time() - (folder / MARK).stat().st_mtime
    except FileNotFoundError:
        if mark:
            (folder / MARK).touch()
        return 0.0


def _unfinished_writes(folder: Path) -> Iterator[Path]:
    """Drafts of writes that were never finished, and what was only of use to the job's worker."""
    for root, folders, files in os.walk(folder):
        place = Path(root)
        drafts = {name for name in folders if _is_draft(name) or (place == folder and name in _OF_WORKER)}
        folders[:] = [name for name in folders if name not in drafts]
        for name in [*drafts, *(name for name in files if _is_draft(name) or name == "worker.tmp")]:
            yield place / name


def _is_draft(name: str) -> bool:
    """Whether a name is one that this package gives to what it renames once it is whole."""
    return name.startswith(".") and name.endswith((".partial", ".merging"))
