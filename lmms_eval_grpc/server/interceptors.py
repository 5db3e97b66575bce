"""What happens around every call, outermost first: see :func:`build_interceptors`."""

from __future__ import annotations

import abc
import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from lmms_eval_grpc.jobs.errors import InvalidRequest, ServiceError, StoreUnavailable, TooManyWatches
from lmms_eval_grpc.server.caps import check_caps
from lmms_eval_grpc.server.errors import internal_status, status_of

logger = logging.getLogger(__name__)

_OWN_SERVICES = "/lmms_eval_grpc."

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Decoder = Callable[[bytes], Any]
Encoder = Callable[[Any], bytes]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Details = grpc.HandlerCallDetails


def build_interceptors(
    max_watches: int, max_watches_per_client: int, guards: Sequence[grpc.aio.ServerInterceptor]
) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors in their order, but for the outermost: :class:`~lmms_eval_grpc.server.observe.ObserveCalls`.

    ``guards`` decide who may call; those that they refuse are logged, but hold nothing.
    """
    limits = StreamLimits(max_watches, max_watches_per_client)
    return [MaskErrors(), *guards, LimitStreams(limits), CheckCaps()]


class Around(grpc.aio.ServerInterceptor):
    """Base of the interceptors: :meth:`call` runs around the handler, which keeps its kind of streaming.

    Handlers are coroutines: those that stream write to their context.
    """

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], handler_call_details: Details
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        return None if handler is None else self.wrap(handler, handler_call_details)

    def wrap(self, handler: Handler, details: Details) -> Handler:
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        behaviour: Behaviour = getattr(handler, kind)

        async def wrapped(request: Any, context: Context) -> Any:
            return await self.call(behaviour, request, context, details)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(
            wrapped,
            request_deserializer=self.decoder(handler.request_deserializer),
            response_serializer=self.encoder(
                handler.response_serializer, details, streaming=handler.response_streaming
            ),
        )
        return made

    def decoder(self, decode: Decoder | None) -> Decoder | None:
        """What makes requests of bytes, for :meth:`call` to receive."""
        return decode

    def encoder(self, encode: Encoder | None, details: Details, *, streaming: bool) -> Encoder | None:
        """What makes bytes of responses."""
        return encode

    @abc.abstractmethod
    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: Details) -> Any:
        """Runs ``behaviour(request, context)``, and whatever belongs around it."""


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


class MaskErrors(Around):
    """Turns whatever a handler raises into a status. Of a bug the client learns an id, the log everything."""

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: Details) -> Any:
        try:
            return await behaviour(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except ServiceError as error:
            if isinstance(error, StoreUnavailable):
                logger.error("%s: %s", details.method, error)
            await status_of(error).abort(context)
        except Exception as error:
            if isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError):
                logger.debug("%s: the client went away: %r", details.method, error)
                context.set_code(grpc.StatusCode.CANCELLED)
                return None
            error_id = uuid.uuid4().hex[:12]
            logger.exception("%s: internal error %s", details.method, error_id)
            await internal_status(error_id).abort(context)


class StreamLimits:
    """How many streams are open, in total and by client address, and how many may be."""

    def __init__(self, in_total: int, per_client: int) -> None:
        self._in_total = in_total
        self._per_client = per_client
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, client: str) -> Iterator[None]:
        """Counts one stream of ``client`` while the context lasts. Raises TooManyWatches."""
        if self._open.total() >= self._in_total:
            raise TooManyWatches("the server", self._in_total)
        if self._open[client] >= self._per_client:
            raise TooManyWatches("this client", self._per_client)
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


class LimitStreams(Around):
    """Caps the open server streams, which may last for days, in total and per client."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits

    def wrap(self, handler: Handler, details: Details) -> Handler:
        return super().wrap(handler, details) if handler.response_streaming else handler

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: Details) -> Any:
        with self._limits.hold(client_of(context.peer())):
            return await behaviour(request, context)


class CheckCaps(Around):
    """Refuses requests that are larger than the table of bounds allows. What makes jobs is checked by the validator,
    which tells that together with all else that is wrong."""

    _CHECKED_BY_VALIDATOR = ("Evaluate", "MergeCheckpoint")

    def wrap(self, handler: Handler, details: Details) -> Handler:
        method = details.method.rpartition("/")[2]
        own = details.method.startswith(_OWN_SERVICES) and method not in self._CHECKED_BY_VALIDATOR
        return super().wrap(handler, details) if own else handler

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: Details) -> Any:
        # A request of a stream that is no message is told by the outermost interceptor.
        if isinstance(request, Message) and (violations := check_caps(request)):
            raise InvalidRequest(violations)
        return await behaviour(request, context)


def client_of(peer: str) -> str:
    """The client in a peer's address: all connections of one host count as one."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
