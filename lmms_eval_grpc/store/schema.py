"""The database's schema, by version, and the way from each version to the next.

``PRAGMA user_version`` holds the version of a file. A migration, once released, is never changed: a new version is a
new entry at the end of :data:`MIGRATIONS`, and a fixture of the version before joins ``tests/store/data``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

Migration = tuple[str, ...]
"""Statements that bring a database from one version to the next."""

# A job is found by "position", its submission order, so that events and labels need not repeat its id. The large
# columns come last: SQLite then reads a row's head without touching the pages that hold its results.
_VERSION_1: Migration = (
    """
    CREATE TABLE jobs (
        position INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,
        request_id TEXT UNIQUE,
        state TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        end_time REAL,
        job TEXT NOT NULL,
        task_results TEXT NOT NULL,
        result TEXT NOT NULL
    )
    """,
    "CREATE INDEX jobs_by_state ON jobs (state, position)",
    "CREATE INDEX jobs_by_end ON jobs (end_time, position) WHERE end_time IS NOT NULL",
    """
    CREATE TABLE labels (
        position INTEGER NOT NULL REFERENCES jobs (position) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (position, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX labels_by_value ON labels (key, value, position)",
    """
    CREATE TABLE events (
        position INTEGER NOT NULL REFERENCES jobs (position) ON DELETE CASCADE,
        sequence INTEGER NOT NULL,
        time REAL NOT NULL,
        supersedable INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (position, sequence)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX superseded_events ON events (position, sequence) WHERE supersedable",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('last_order', 0)",
)

# Jobs in the order in which they ended, which the wall clock does not tell: it may be set back.
_VERSION_2: Migration = (
    """
    CREATE TABLE endings (
        place INTEGER PRIMARY KEY,
        position INTEGER NOT NULL UNIQUE REFERENCES jobs (position) ON DELETE CASCADE
    )
    """,
    "INSERT INTO endings (position) SELECT position FROM jobs WHERE end_time IS NOT NULL ORDER BY end_time, position",
    "DROP INDEX jobs_by_end",
)

# Who submitted a job, for listings by owner. Of the jobs that are there it was not recorded.
_VERSION_3: Migration = (
    "ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX jobs_by_owner ON jobs (owner, position)",
)

MIGRATIONS: tuple[Migration, ...] = (_VERSION_1, _VERSION_2, _VERSION_3)


class NewerSchema(Exception):
    """The file was written by a later release."""


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Brings an open database to the newest version, each step in a transaction of its own.

    Raises:
        NewerSchema: the database is of a version that ``migrations`` does not know.
        sqlite3.Error: a step failed; the database is at the version before it.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise NewerSchema(f"its schema is version {version}, this release knows versions up to {len(migrations)}")
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
