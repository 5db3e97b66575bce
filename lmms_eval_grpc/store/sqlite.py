"""Jobs and events in one SQLite file: write-ahead log, synced commits, one writing and one reading thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lmms_eval_grpc.jobs.codec import DecodeError
from lmms_eval_grpc.jobs.errors import JobUnreadable, StoreUnavailable
from lmms_eval_grpc.jobs.events import JobEvent
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.store import statements
from lmms_eval_grpc.store.base import JobFilter, Unfinished
from lmms_eval_grpc.store.schema import NewerSchema, migrate
from lmms_eval_grpc.store.trouble import Trouble
from lmms_eval_grpc.store.writer import CommitObserver, GroupWriter

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_LARGEST_INTEGER = 2**63 - 1
_HEAD = "position, job_id, state, sequence, job"
_FULL = f"{_HEAD}, task_results, result"

LARGEST_CHECKED = 256 * 1024 * 1024
"""Bytes of the largest file that is read in full, and so checked, when it is opened: a matter of a second or two."""

_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""Why a write fails while another process is at the file, as for a backup."""
_NO_TROUBLE = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
"""What the write has brought about itself."""

_REMEDIES = {
    "SQLITE_FULL": "free space on the disk that holds the server's state folder",
    "SQLITE_BUSY": "another process holds the database; end it",
    "SQLITE_LOCKED": "another process holds the database; end it",
    "SQLITE_READONLY": "make the server's state folder and the files in it writable",
    "SQLITE_CANTOPEN": "make the server's state folder readable and writable",
    "SQLITE_CORRUPT": "the file is damaged; put a backup in its place, or move it away to start with an empty store",
    "SQLITE_NOTADB": "the file is damaged; put a backup in its place, or move it away to start with an empty store",
}


class SqliteStore:
    """A :class:`~lmms_eval_grpc.store.base.JobStore` in one file.

    Commits use ``synchronous=FULL``: what a call has acknowledged survives power loss. Everything that waits while one
    commit is synced goes into the next, so concurrent writers share its cost. Reads see every acknowledged write, and
    never wait for the writer.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout: float = 5.0,
        largest_checked: int = LARGEST_CHECKED,
        committed: CommitObserver | None = None,
    ) -> None:
        """
        Args:
            busy_timeout: seconds to wait for another process that holds the file before giving up.
            largest_checked: bytes up to which a file is checked for damage when it is opened. Damage in a larger one is
                found when the damaged part is read.
            committed: is told of each commit, in another thread.
        """
        self._path = path
        self._busy_timeout = busy_timeout
        self._largest_checked = largest_checked
        self._committed = committed
        self._told_unreadable: set[str] = set()
        self._trouble = Trouble(self._probe)
        self._writer: GroupWriter | None = None
        self._reader: sqlite3.Connection | None = None
        self._reading: ThreadPoolExecutor | None = None

    @property
    def commits(self) -> int:
        """Transactions committed since the store was opened."""
        return 0 if self._writer is None else self._writer.commits

    @property
    def trouble(self) -> str | None:
        """See :attr:`JobStore.trouble`."""
        return self._trouble.reason

    def when_trouble_changes(self, listener: Callable[[], None]) -> None:
        """See :meth:`JobStore.when_trouble_changes`."""
        self._trouble.listen(listener)

    async def open(self) -> None:
        """See :meth:`JobStore.open`. Raises StoreUnavailable, with the remedy, for a file that cannot be used."""
        writer, self._reader = await asyncio.to_thread(self._connect)
        self._writer = GroupWriter(writer, self._committed)
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-reader")

    async def close(self) -> None:
        """See :meth:`JobStore.close`. Idempotent."""
        writer, reader, reading = self._writer, self._reader, self._reading
        self._writer = self._reader = self._reading = None
        await self._trouble.close()
        if reading is not None and reader is not None:
            await asyncio.get_running_loop().run_in_executor(reading, reader.close)
            reading.shutdown()
        if writer is not None:
            await writer.close()

    async def insert(self, job: Job, event: JobEvent) -> None:
        """See :meth:`JobStore.insert`."""
        await self._write(functools.partial(statements.insert, job=job, event=event))

    async def append(self, job: Job, event: JobEvent) -> None:
        """See :meth:`JobStore.append`. Raises JobNotFound when there is no such job, ValueError when the event is not
        the next of its log."""
        await self._write(functools.partial(statements.append, job=job, event=event))

    async def amend(self, job: Job) -> None:
        """See :meth:`JobStore.amend`."""
        await self._write(functools.partial(statements.amend, job=job))

    async def remove(self, job_ids: Sequence[str]) -> None:
        """See :meth:`JobStore.remove`. Jobs that have not ended stay."""
        await self._write(functools.partial(statements.remove, job_ids=tuple(job_ids)))

    async def get(self, job_id: str) -> Job | None:
        """See :meth:`JobStore.get`."""
        return await self._job(f"SELECT {_FULL} FROM jobs WHERE job_id = ?", job_id)

    async def find_request(self, request_id: str) -> Job | None:
        """See :meth:`JobStore.find_request`."""
        return await self._job(f"SELECT {_FULL} FROM jobs WHERE request_id = ?", request_id)

    async def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """See :meth:`JobStore.events`."""

        def read(connection: sqlite3.Connection) -> list[JobEvent]:
            rows = connection.execute(
                "SELECT events.sequence, events.time, events.body FROM events JOIN jobs USING (position)"
                " WHERE jobs.job_id = ? AND events.sequence > ? ORDER BY events.sequence",
                (job_id, after),
            )
            try:
                return [statements.decode_event(*row) for row in rows]
            except DecodeError as error:
                self._tell_unreadable(job_id, error)
                raise JobUnreadable(job_id) from error

        return await self._read(read)

    async def unfinished(self) -> Unfinished:
        """See :meth:`JobStore.unfinished`."""

        def read(connection: sqlite3.Connection) -> Unfinished:
            found = Unfinished([], [])
            condition = f"state NOT IN ({statements.marks(statements.ENDED)})"
            for row in connection.execute(
                f"SELECT {_FULL} FROM jobs WHERE {condition} ORDER BY position", statements.ENDED
            ):
                try:
                    found.jobs.append(self._to_job(*row))
                except JobUnreadable as error:
                    found.unreadable.append(error.job_id)
            return found

        return await self._read(read)

    async def page(self, selection: JobFilter, *, before_order: int | None, size: int, full: bool) -> list[Job]:
        """See :meth:`JobStore.page`."""
        conditions, values = ["position < ?"], list[object]()
        if selection.states:
            conditions.append(f"state IN ({statements.marks(selection.states)})")
            values.extend(sorted(state.value for state in selection.states))
        if selection.owner:
            conditions.append("owner = ?")
            values.append(selection.owner)
        for key, value in selection.labels.items():
            conditions.append("position IN (SELECT position FROM labels WHERE key = ? AND value = ?)")
            values.extend((key, value))
        statement = (
            f"SELECT {_FULL if full else _HEAD} FROM jobs WHERE {' AND '.join(conditions)}"
            " ORDER BY position DESC LIMIT ?"
        )

        def read(connection: sqlite3.Connection) -> list[Job]:
            jobs: list[Job] = []
            before = _LARGEST_INTEGER if before_order is None else before_order
            while len(jobs) < size:
                wanted = size - len(jobs)
                rows = connection.execute(statement, (before, *values, wanted)).fetchall()
                for row in rows:
                    with contextlib.suppress(JobUnreadable):
                        jobs.append(self._to_job(*row))
                if len(rows) < wanted:
                    break
                before = rows[-1][0]
            return jobs

        return await self._read(read)

    async def counts(self) -> Mapping[JobState, int]:
        """See :meth:`JobStore.counts`."""

        def read(connection: sqlite3.Connection) -> dict[JobState, int]:
            found = dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
            return {state: found.get(state.value, 0) for state in JobState}

        return await self._read(read)

    async def states(self) -> Mapping[str, JobState | None]:
        """See :meth:`JobStore.states`."""

        def read(connection: sqlite3.Connection) -> dict[str, JobState | None]:
            known = {state.value: state for state in JobState}
            return {job_id: known.get(state) for job_id, state in connection.execute("SELECT job_id, state FROM jobs")}

        return await self._read(read)

    async def last_order(self) -> int:
        """See :meth:`JobStore.last_order`."""

        def read(connection: sqlite3.Connection) -> int:
            (order,) = connection.execute("SELECT value FROM counters WHERE name = 'last_order'").fetchone()
            return int(order)

        return await self._read(read)

    async def expired(self, *, keep: int | None, ended_before: float | None) -> list[str]:
        """See :meth:`JobStore.expired`. Those that ended first come first."""

        def read(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "SELECT job_id FROM (SELECT job_id, end_time, row_number() OVER (ORDER BY place DESC) AS newest"
                " FROM endings JOIN jobs USING (position)) WHERE newest > ? OR end_time < ? ORDER BY newest DESC",
                (keep, ended_before),
            )
            return [job_id for (job_id,) in rows]

        return await self._read(read)

    async def _job(self, statement: str, value: str) -> Job | None:
        def read(connection: sqlite3.Connection) -> Job | None:
            row = connection.execute(statement, (value,)).fetchone()
            return None if row is None else self._to_job(*row)

        return await self._read(read)

    def _to_job(
        self,
        position: int,
        job_id: str,
        state: str,
        sequence: int,
        head: str,
        task_results: str | None = None,
        result: str | None = None,
    ) -> Job:
        try:
            job = statements.decode_job(head, task_results, result)
            # What is found by its columns must be what it says itself, or it would be written to another's row.
            if (job.order, job.job_id, job.state.value, job.sequence) != (position, job_id, state, sequence):
                raise DecodeError("its columns and its record do not agree")
            return job
        except DecodeError as error:
            self._tell_unreadable(job_id, error)
            raise JobUnreadable(job_id) from error

    def _tell_unreadable(self, job_id: str, error: DecodeError) -> None:
        """Only the first time: a listing meets the same ones again and again."""
        if job_id not in self._told_unreadable:
            self._told_unreadable.add(job_id)
            _LOG.error("job %s was written by a later release, or is damaged, and is left alone: %s", job_id, error)

    async def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        if self._reading is None or self._reader is None:
            raise StoreUnavailable("the job store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, operation, self._reader)
        except sqlite3.Error as error:
            raise self._unavailable("read", error) from error

    async def _write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        if self._writer is None:
            raise StoreUnavailable("the job store is closed")
        try:
            return await self._writer.write(operation)
        except sqlite3.DataError as error:
            # Trying again would not make it smaller.
            raise ValueError(f"the job store cannot hold it: {error}") from error
        except sqlite3.Error as error:
            unavailable = self._unavailable("written", error)
            if self._writer is not None and not isinstance(error, _NO_TROUBLE):
                self._trouble.failed(str(unavailable), passing=getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING)
            raise unavailable from error

    async def _probe(self) -> None:
        """Writes something of the size of a job, and removes it again."""
        if self._writer is None:
            raise StoreUnavailable("the job store is closed")
        try:
            for statement in statements.PROBE:
                await self._writer.write(functools.partial(_execute, statement=statement))
        except sqlite3.Error as error:
            raise StoreUnavailable(_refusal("written", error)) from error

    def _unavailable(self, what: str, error: sqlite3.Error) -> StoreUnavailable:
        # Clients are told what and how, the file's name is for the log.
        message = _refusal(what, error)
        _LOG.error("%s (%s)", message, self._path)
        return StoreUnavailable(message)

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """The writing and the reading connection to a file of the newest schema."""
        connections: list[sqlite3.Connection] = []
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connections.append(writer := self._connection())
            connections.append(reader := self._connection())
            self._prepare(writer)
            migrate(writer)
            reader.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, NewerSchema, OSError) as error:
            for connection in connections:
                connection.close()
            raise StoreUnavailable(f"cannot open the job store {self._path}: {explain(error)}") from error
        return writer, reader

    def _connection(self) -> sqlite3.Connection:
        # Opened in one thread and used in another; never in two at once.
        return sqlite3.connect(self._path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Sets a connection up for writing, and makes sure that what it writes to is whole."""
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(
                f"the file system does not support write-ahead logging (journal mode is {mode!r});"
                " put the server's state folder on a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if (size := self._path.stat().st_size) > self._largest_checked:
            _LOG.info("the job store is not checked for damage: it has %d MiB", size >> 20)
            return
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"{verdict}; {_REMEDIES['SQLITE_CORRUPT']}")


def _execute(connection: sqlite3.Connection, statement: str) -> None:
    connection.execute(statement)


def _refusal(what: str, error: sqlite3.Error) -> str:
    return f"the job store cannot be {what}: {explain(error)}"


def explain(error: Exception) -> str:
    """What went wrong, and what to do about it where that is known."""
    if isinstance(error, NewerSchema):
        return f"{error}; run the release that wrote it, or a later one"
    name = getattr(error, "sqlite_errorname", None) or ""
    # Extended codes such as SQLITE_READONLY_DIRECTORY share the remedy of their first two words.
    remedy = _REMEDIES.get("_".join(name.split("_")[:2]))
    return f"{error}; {remedy}" if remedy else str(error)
