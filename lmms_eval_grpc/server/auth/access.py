"""Who a call's credentials belong to, by the access list as it is now."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from lmms_eval_grpc.jobs.errors import Unauthenticated
from lmms_eval_grpc.server.auth.access_file import read_entries
from lmms_eval_grpc.server.auth.entries import BadEntry, Entry, check_name, hash_token
from lmms_eval_grpc.server.principals import ANONYMOUS, Principal, Role

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_INTERVAL = 1.0
"""Seconds between looks whether the credentials of the calls under way are still valid."""

_SCHEME = "bearer"
_HOW = (
    "send a token as the metadata 'authorization: Bearer TOKEN' (Python clients and the command line:"
    " LMMS_EVAL_GRPC_TOKEN_FILE or LMMS_EVAL_GRPC_TOKEN), or a client certificate that the server knows"
)


@dataclass(frozen=True, slots=True)
class Grant:
    """Who calls, and by which entry of the access list."""

    principal: Principal
    entry: Entry | None = None
    """None: the server has no access list."""


class Access:
    """The access list of a server, which may change while the server runs; or none, and everybody may do everything."""

    def __init__(
        self, path: Path | None, *, interval: float = CHECK_INTERVAL, clock: Callable[[], float] | None = None
    ) -> None:
        """
        Args:
            path: the file. None: there is no list.
            interval: seconds between looks at the file while calls are under way.
            clock: tells the time in seconds since the epoch.
        """
        self._path = path
        self._interval = interval
        self._clock = clock
        self._mark: object = None
        self._entries: Sequence[Entry] = ()
        self._under_way: set[tuple[Entry, asyncio.Timeout]] = set()
        self._checking: asyncio.Task[None] | None = None

    @property
    def is_asked_for(self) -> bool:
        """Whether callers have to show who they are."""
        return self._path is not None

    def start(self) -> None:
        """Reads the file, and ends calls from now on when their credentials lapse. Raises BadEntry."""
        if self._path is None:
            return
        self._mark = _mark(self._path)
        self._entries = read_entries(self._path)
        logger.info("access list: %d entries", len(self._entries))
        if not self._entries:
            logger.warning("the access list is empty: nobody can call; lmms-eval-grpc token create adds to it")
        self._checking = asyncio.create_task(self._check_forever())

    async def stop(self) -> None:
        """Looks no more."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])

    def identify(self, authorization: Sequence[str | bytes], certificate: str | None) -> Grant:
        """Who calls.

        Args:
            authorization: the values of the metadata of this name.
            certificate: the name in the client's certificate. None: it has none.

        Raises:
            Unauthenticated: nobody that is known. A wrong token is not made up for by a right certificate.
        """
        if self._path is None:
            return Grant(ANONYMOUS if certificate is None else _administrator(certificate))
        self._refresh(self._path)
        if authorization:
            return self._valid(self._find_token(authorization), "token")
        if certificate is None:
            raise Unauthenticated(f"this server asks who you are: {_HOW}")
        named = [entry for entry in self._entries if entry.kind == "certificate" and entry.name == certificate]
        if not named:
            raise Unauthenticated(
                f"the name {certificate!r} of the client certificate is not in the server's access list; ask who runs"
                " it"
            )
        now = self._now()
        # A name may have several, of which some have expired.
        return self._valid(next((entry for entry in named if entry.is_valid(now)), named[0]), "certificate")

    async def while_valid(self, grant: Grant, work: Awaitable[T]) -> T:
        """Does the work of a call, for as long as its credentials are valid. Raises Unauthenticated once they are not,
        and whatever the work raises."""
        if grant.entry is None:
            return await work
        bound = asyncio.timeout(None)
        item = (grant.entry, bound)
        try:
            async with bound:
                self._under_way.add(item)
                return await work
        except TimeoutError:
            if not bound.expired():
                raise
            raise Unauthenticated(f"the {grant.entry.kind} was revoked, or has expired, during the call") from None
        finally:
            self._under_way.discard(item)

    def _find_token(self, authorization: Sequence[str | bytes]) -> Entry:
        value = authorization[0]
        scheme, _, token = (value if isinstance(value, str) else value.decode("latin-1")).partition(" ")
        if len(authorization) > 1 or scheme.lower() != _SCHEME or not token.strip():
            raise Unauthenticated(f"the metadata 'authorization' cannot be understood: {_HOW}")
        shown = hash_token(token.strip())
        found = None
        for entry in self._entries:  # all of them: how long it takes says nothing about which one fits
            if entry.kind == "token" and hmac.compare_digest(entry.sha256, shown):
                found = entry
        if found is None:
            raise Unauthenticated("the token is not in the server's access list: it was revoked, or is not whole")
        return found

    def _valid(self, entry: Entry, what: str) -> Grant:
        if not entry.is_valid(self._now()):
            raise Unauthenticated(f"the {what} of {entry.name} expired at {entry.expires}; ask for a new one")
        return Grant(Principal(entry.name, entry.role), entry)

    def _refresh(self, path: Path) -> None:
        mark = _mark(path)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            entries = read_entries(path)
        except BadEntry as error:
            logger.error("%s; the access list that was read before stays in force", error)
            return
        logger.info("the access list has changed: %d entries", len(entries))
        self._entries = entries

    async def _check_forever(self) -> None:
        assert self._path is not None
        while True:
            await asyncio.sleep(self._interval)
            self._refresh(self._path)
            valid = {entry.key for entry in self._entries if entry.is_valid(self._now())}
            for item in [item for item in self._under_way if item[0].key not in valid]:
                self._under_way.discard(item)
                if not item[1].expired():
                    item[1].reschedule(asyncio.get_running_loop().time())

    def _now(self) -> datetime:
        return datetime.now(UTC) if self._clock is None else datetime.fromtimestamp(self._clock(), UTC)


def _administrator(certificate: str) -> Principal:
    """The holder of a certificate where there is no list. Raises Unauthenticated: nobody can have that name."""
    try:
        check_name(certificate, "certificate")
    except BadEntry as error:
        raise Unauthenticated(f"the client certificate cannot be used: {error}") from None
    return Principal(certificate, Role.ADMIN)


def _mark(path: Path) -> object:
    """Changes whenever the file does, its permissions included."""
    try:
        told = os.stat(path)  # noqa: PTH116 (asked at each call: no new path object for it)
    except OSError as error:
        return error.errno
    return (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
