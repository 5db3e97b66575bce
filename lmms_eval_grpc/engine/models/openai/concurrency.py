"""How many requests at once: more while all is well, fewer when the server is overloaded."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from lmms_eval_grpc.engine.models.openai.options import RequestOptions

logger = logging.getLogger(__name__)

FIRST_LIMIT = 4


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request that is open: how often the limit was taken back, and how often reached, before it was sent."""

    retreats: int
    reached: int


class AdaptiveLimit:
    """The number of requests that may be open, after the way in which TCP finds its window.

    It doubles with every round of answers until the server is first overloaded, then grows by one each round. An
    overload takes it down by a factor, once for all requests that were open at the time. Not for several threads.
    """

    def __init__(
        self, *, least: int = 1, most: int = 128, first: int = FIRST_LIMIT, factor: float = 0.7, adaptive: bool = True
    ) -> None:
        self._most = max(1, most)
        self._least = min(max(1, least), self._most)
        self._limit = float(min(max(first, self._least), self._most)) if adaptive else float(self._most)
        self._factor = factor
        self._adaptive = adaptive
        self._retreats = self._reached = 0

    @classmethod
    def of(cls, options: RequestOptions, first: int = FIRST_LIMIT) -> AdaptiveLimit:
        return cls(
            least=options.adaptive_min_concurrency,
            most=options.most_concurrent,
            first=first,
            factor=options.adaptive_decrease_factor,
            adaptive=options.adaptive_concurrency,
        )

    @property
    def value(self) -> int:
        """Requests that may be open now; at least 1."""
        return int(self._limit)

    def begin(self, open_requests: int) -> Ticket:
        """Called when a request is sent, of which so many are open then, itself included."""
        ticket = Ticket(self._retreats, self._reached)
        self._reached += open_requests >= self.value
        return ticket

    def succeed(self, ticket: Ticket) -> None:
        """A request was answered. A limit that was not reached meanwhile does not grow."""
        if self._adaptive and ticket.reached < self._reached:
            step = 1.0 if self._retreats == 0 else 1.0 / self._limit
            self._limit = min(float(self._most), self._limit + step)

    def retreat(self, ticket: Ticket) -> None:
        """The server was overloaded by a request."""
        if self._adaptive and ticket.retreats == self._retreats:
            self._retreats += 1
            self._limit = max(float(self._least), self._limit * self._factor)
            logger.info("the server is overloaded; at most %d requests at once", self.value)


class Gate:
    """Lets requests of one event loop through: as many as a limit says, and none while the server wants rest."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self.limit = limit
        self.open = 0
        self._changed = asyncio.Condition()
        self._rest_until = 0.0

    async def enter(self) -> Ticket:
        """Waits for room. Whoever entered must :meth:`leave`."""
        async with self._changed:
            while True:
                rest = self._rest_until - asyncio.get_running_loop().time()
                if rest <= 0 and self.open < self.limit.value:
                    break
                if rest > 0:
                    self._changed.release()
                    try:
                        await asyncio.sleep(rest)
                    finally:
                        await self._changed.acquire()
                else:
                    await self._changed.wait()
            self.open += 1
            return self.limit.begin(self.open)

    async def leave(self) -> None:
        async with self._changed:
            self.open -= 1
            self._changed.notify_all()

    def rest(self, seconds: float) -> None:
        """Nobody enters for so long."""
        self._rest_until = max(self._rest_until, asyncio.get_running_loop().time() + seconds)
