"""How the files of one evaluation's results get into a folder: under a date that nobody else takes, all or none."""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError

_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR})


@contextlib.contextmanager
def all_or_none() -> Iterator[list[Path]]:
    """A list for the files that the block writes: they are removed when it fails."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


@contextlib.contextmanager
def writing_to(output_dir: Path | None) -> Iterator[None]:
    """An error of the block that says that nothing may be written becomes EvaluationError OUTPUT_NOT_WRITABLE about the
    folder that the user named; None: it is of nobody's naming, and so no user's mistake."""
    try:
        yield
    except OSError as error:
        if output_dir is None or error.errno not in _NOT_WRITABLE:
            raise
        place = str(error.filename or output_dir)
        message = (
            f"the results cannot be written to {place!r}: {error.strerror}; mend that, or name another output folder"
        )
        raise EvaluationError("OUTPUT_NOT_WRITABLE", message) from error


@contextlib.contextmanager
def reserved_date(folder: Path, date: str) -> Iterator[str]:
    """A date that no results in ``folder`` have, and that no other process takes while the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        free = date if number == 1 else f"{date}-{number}"
        mark = folder / f".{free}.writing"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:  # also one that a killed process left; there are numbers enough
            continue
        try:
            if not (folder / f"{free}_results.json").exists():
                yield free
                return
        finally:
            mark.unlink(missing_ok=True)
