"""What keeps one caller from taking the server away from the others: bounds on open streams, on the time of a call and
on the rate of a stream.

How many jobs a principal may have and submit is the scheduler's: see :mod:`lmms_eval_grpc.scheduler.quotas`. How many
submissions are checked at once follows from the threads of :mod:`lmms_eval_grpc.server.offload`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lmms_eval_grpc.jobs.errors import CallTimedOut, TooManyWatches
from lmms_eval_grpc.server.around import Around, Behaviour, Context
from lmms_eval_grpc.server.auth.table import MINIMUM_ROLES
from lmms_eval_grpc.server.principals import Role, current_principal

if TYPE_CHECKING:
    from lmms_eval_grpc.server.around import Handler


OPEN_TO_ALL = 1_000
"""Open streams of the methods that need no credentials, all together: of health."""


class StreamLimits:
    """How many streams are open, in total, by client address and by principal, and how many may be. Who has none open
    takes no memory."""

    def __init__(self, in_total: int, per_client: int, per_principal: int | None = None) -> None:
        self._in_total = in_total
        self._per_client = per_client
        self._per_principal = per_principal
        self._clients: Counter[str] = Counter()
        self._principals: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def hold(self, client: str, principal: str) -> Iterator[None]:
        """Counts one stream of ``client`` and ``principal`` while the context lasts. Raises TooManyWatches."""
        if self._total >= self._in_total:
            raise TooManyWatches("the server", self._in_total)
        if self._clients[client] >= self._per_client:
            raise TooManyWatches("this client", self._per_client)
        if self._per_principal is not None and self._principals[principal] >= self._per_principal:
            raise TooManyWatches(f"principal {principal}", self._per_principal)
        self._total += 1
        self._clients[client] += 1
        self._principals[principal] += 1
        try:
            yield
        finally:
            self._total -= 1
            for counter, key in ((self._clients, client), (self._principals, principal)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]


class LimitStreams(Around):
    """Caps the open server streams, which may last for days, in total, per client and per principal; by bounds of their
    own those that need no credentials."""

    def __init__(self, limits: StreamLimits, of_open_to_all: StreamLimits) -> None:
        self._limits = limits
        self._of_open_to_all = of_open_to_all

    def wrap(self, handler: Handler, method: str) -> Handler:
        return super().wrap(handler, method) if handler.response_streaming else handler

    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        limits = self._of_open_to_all if MINIMUM_ROLES.get(method) is Role.NONE else self._limits
        with limits.hold(client_of(context.peer()), current_principal().name):
            return await behaviour(request, context)


def client_of(peer: str) -> str:
    """The client in a peer's address: all connections of one host count as one."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer


class LimitTime(Around):
    """Cuts off unary calls that take too long. What a handler has to carry to its end it does in a task of its own
    (:func:`~lmms_eval_grpc.scheduler.carry.carry_through`), which goes on."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def wrap(self, handler: Handler, method: str) -> Handler:
        unary = not handler.response_streaming and not handler.request_streaming
        return super().wrap(handler, method) if unary and self._seconds is not None else handler

    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                return await behaviour(request, context)
        except TimeoutError:
            if not limit.expired() or self._seconds is None:
                raise
            raise CallTimedOut(self._seconds) from None


class Pacer:
    """When the next message of a stream may be sent so that the stream keeps to a rate: after a message as long as it
    lasts at that rate. The first one may be sent at once."""

    def __init__(self, bytes_per_second: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._due = clock()

    def wait(self) -> float:
        """Seconds until the next message may be sent; 0: now."""
        return max(0.0, self._due - self._clock())

    def sent(self, size: int) -> None:
        """Notes that a message of ``size`` bytes was sent."""
        if self._rate is not None:
            self._due = max(self._due, self._clock()) + size / self._rate

    def bound(self, size: int, least: int = 4096) -> int:
        """Bytes of the next message, which are to be no more than ``size``: no more than about a second's worth."""
        return size if self._rate is None else max(min(size, self._rate), least)
