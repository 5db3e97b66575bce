"""Which commit of this package is running, where it runs from a checkout."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[3]


@functools.cache
def code_version(checkout: Path = _CHECKOUT) -> dict[str, Any]:
    """``commit`` (hexadecimal) and ``branch`` of ``checkout``; both None where it is none, as for an installed package.

    Read from git's own files: git need not be there, and an evaluation does not wait for it. Uncommitted changes do not
    show; what matters of them for a score is in the digests of the tasks' sources.
    """
    folder = _git_folder(checkout)
    if folder is None:
        return {"commit": None, "branch": None}
    try:
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return {"commit": head, "branch": None}
        reference = head.removeprefix("ref: ")
        return {"commit": _resolve(folder, reference), "branch": reference.removeprefix("refs/heads/")}
    except (OSError, UnicodeDecodeError):
        return {"commit": None, "branch": None}


def _git_folder(checkout: Path) -> Path | None:
    """The git folder of ``checkout``; of a further work tree, the one that its ``.git`` file names."""
    place = checkout / ".git"
    if place.is_dir():
        return place
    try:
        pointer = place.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    target = Path(pointer.removeprefix("gitdir: "))
    return target if target.is_absolute() else checkout / target


def _resolve(folder: Path, reference: str) -> str | None:
    """The commit that ``reference`` stands for, from a file of its own or the packed ones; work trees share them."""
    common = folder / "commondir"
    folders = [folder, folder / common.read_text().strip()] if common.is_file() else [folder]
    for place in folders:
        if (place / reference).is_file():
            return (place / reference).read_text().strip()
        packed = place / "packed-refs"
        if packed.is_file():
            for line in packed.read_text().splitlines():
                commit, _, name = line.partition(" ")
                if name == reference:
                    return commit
    return None
