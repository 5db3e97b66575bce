"""Videos that come in archives: unpacked once, whole or not at all, into the folder where the task looks for them."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock

from lmms_eval_grpc.engine.api import EvaluationError

_log = logging.getLogger(__name__)

MARKER = ".lmms_eval_grpc_complete.json"
"""Written into a folder when everything is unpacked; names the archives."""

_BLOCK = 1 << 20
_DRAFT = ".unpacking."


def prepare_media(
    task: str,
    repository: str,
    target: Path,
    *,
    revision: str | None = None,
    force_download: bool = False,
    force_unzip: bool = False,
    create_link: bool = False,
    local_files_only: bool = False,
    token: Any = None,
) -> Path:
    """Makes ``target`` hold the contents of all archives of ``repository``, a hub dataset or a folder.

    Several processes may ask at once: one works, the others wait. Each file appears whole under its name, and files
    that are there in their full size are left alone, so an unpacking that was killed is taken up again. Zip files and
    tar files (plain, compressed, or split into numbered parts) are unpacked; without any, ``create_link`` makes
    ``target`` a link to the repository's files.

    Raises EvaluationError DATASET_UNAVAILABLE when the archives cannot be had and nothing was unpacked before.
    """
    if (target / MARKER).is_file() and not (force_download or force_unzip):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if (target / MARKER).is_file() and not (force_download or force_unzip):
            return target
        try:
            snapshot = _snapshot(repository, revision, force_download, local_files_only, token)
        except Exception as error:
            if target.is_dir() and any(target.iterdir()):
                _log.warning("task %s: using %s as it is; its archives could not be had: %s", task, target, error)
                return target
            raise EvaluationError(
                "DATASET_UNAVAILABLE",
                f"task {task}: the archives of {repository!r} could not be downloaded: {' '.join(str(error).split())}. "
                f"Without network, unpack them into {target} yourself",
            ) from error
        groups = list(archive_groups(snapshot))
        if groups:
            _unpack_all(task, groups, target)
        elif create_link and (target.is_symlink() or not target.exists()):
            _link(target, snapshot)
    return target


def archive_groups(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """The archives below ``folder`` as (name, files): the parts of a split tar file together, in their order."""
    for path in sorted(folder.rglob("*.zip")):
        yield str(path.relative_to(folder)), (path,)
    parts: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.tar*")):
        if path.is_file():
            stem = re.sub(r"_\d+$", "", path.name.partition(".tar")[0])
            parts.setdefault(str(path.parent.relative_to(folder) / f"{stem}.tar"), []).append(path)
    for name, files in parts.items():
        yield name, tuple(files)


def _unpack_all(task: str, groups: Sequence[tuple[str, tuple[Path, ...]]], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for abandoned in target.rglob(f"{_DRAFT}*"):
        abandoned.unlink(missing_ok=True)  # its process was killed while it wrote; the lock is ours
    for name, files in groups:
        try:
            if name.endswith(".zip"):
                _unpack_zip(files[0], target)
            else:
                _unpack_tar(files, target)
        except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise EvaluationError(
                "DATASET_UNAVAILABLE",
                f"task {task}: the archive {name} could not be unpacked into {target}: {error}; remove it from the "
                "Hugging Face cache to have it downloaded again",
            ) from error
    _write(target / MARKER, io.BytesIO(json.dumps({"archives": [name for name, _ in groups]}).encode()))


def _unpack_zip(path: Path, target: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            place = _place(target, member.filename)
            if member.is_dir() or place is None or _is_there(place, member.file_size):
                continue
            with archive.open(member) as content:
                _write(place, content)


def _unpack_tar(parts: Sequence[Path], target: Path) -> None:
    # Blocks of zeros end a tar file; whole tar files that were numbered like parts have them in between.
    with _Joined(parts) as joined, tarfile.open(fileobj=joined, mode="r|*", ignore_zeros=True) as archive:
        for member in archive:
            place = _place(target, member.name)
            if not member.isfile() or place is None or _is_there(place, member.size):
                continue
            content = archive.extractfile(member)
            if content is not None:
                _write(place, content)


def _place(target: Path, name: str) -> Path | None:
    """Where a member goes; None for a name that would lead out of ``target``."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts:
        _log.warning("a member named %r is left out: it would lie outside of %s", name, target)
        return None
    return target.joinpath(*parts)


def _is_there(place: Path, size: int) -> bool:
    try:
        return place.stat().st_size == size
    except OSError:
        return False


def _write(place: Path, content: IO[bytes]) -> None:
    """Writes a file that appears under its name only when it is whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=_DRAFT)
    try:
        with os.fdopen(descriptor, "wb") as file:
            while block := content.read(_BLOCK):
                file.write(block)
        Path(name).chmod(0o644)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _link(target: Path, snapshot: Path) -> None:
    fresh = target.with_name(f".{target.name}.link.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(snapshot.resolve(), target_is_directory=True)
    fresh.replace(target)


def _snapshot(repository: str, revision: str | None, force: bool, local_only: bool, token: Any) -> Path:
    local = Path(repository).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download  # late: most tasks have no archives

    return Path(
        snapshot_download(
            repo_id=repository,
            repo_type="dataset",
            revision=revision or "main",
            force_download=force,
            local_files_only=local_only,
            token=token,
            etag_timeout=60,
        )
    )


class _Joined(io.RawIOBase):
    """Several files read as one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Fewer than ``size`` bytes only at the very end, as tar readers expect."""
        found = bytearray()
        while size < 0 or len(found) < size:
            if self._file is None:
                if not self._paths:
                    break
                self._file = self._paths.pop(0).open("rb")
            block = self._file.read(size - len(found) if size >= 0 else _BLOCK)
            if not block:
                self._file.close()
                self._file = None
            found += block
        return bytes(found)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()
