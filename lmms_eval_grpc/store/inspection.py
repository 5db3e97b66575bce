"""A look at a store that changes nothing, whether a server has it open or not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lmms_eval_grpc.store.schema import MIGRATIONS, NewerSchema
from lmms_eval_grpc.store.sqlite import LARGEST_CHECKED, explain


def find_damage(path: Path, *, largest_checked: int = LARGEST_CHECKED) -> str | None:
    """What keeps the store at ``path`` from being opened, and what to do about it; None: nothing.

    A file of more than ``largest_checked`` bytes is only opened.
    """
    # Without a log beside it nobody writes the file, and no log must be made: it would belong to whoever looks.
    still = not path.with_name(f"{path.name}-wal").exists()
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if still else ''}", uri=True)
    except sqlite3.Error as error:
        return explain(error)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            known = len(MIGRATIONS)
            return explain(NewerSchema(f"its schema is version {version}, this release knows versions up to {known}"))
        if path.stat().st_size <= largest_checked:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                return explain(damaged(verdict))
    except (sqlite3.Error, OSError) as error:
        return explain(error)
    finally:
        connection.close()
    return None


def damaged(verdict: str) -> sqlite3.DatabaseError:
    """The error for a file that SQLite finds damaged when it is asked."""
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error
