"""What happens around every call, outermost first: see :func:`build_interceptors`."""

from __future__ import annotations

import abc
import asyncio
import itertools
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from lmms_eval_grpc.jobs.errors import InvalidRequest, ServiceError, StoreUnavailable, TooManyWatches, Violation
from lmms_eval_grpc.server.errors import internal_status, status_of

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Decoder = Callable[[bytes], Any]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

REQUEST_ID_KEY = "x-request-id"
"""Metadata key under which a caller may name a call, to find it in the server's log."""

_OWN_IDS = uuid.uuid4().hex[:8]
_NUMBERS = itertools.count(1)
"""Calls that bring no id are numbered, after what tells one server's life from another."""
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OWN_SERVICE = "/lmms_eval_grpc."


def build_interceptors(max_watches: int, max_watches_per_client: int) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors in their order."""
    limits = StreamLimits(max_watches, max_watches_per_client)
    return [AllAround([MaskErrors(), LogCalls(), LimitStreams(limits)])]


class CallDetails:
    """What an interceptor is told of a call."""

    __slots__ = ("_context", "method")

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self._context = context

    @property
    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What came with the call."""
        metadata: Any = self._context.invocation_metadata()
        return tuple(metadata or ())


class AllAround(grpc.aio.ServerInterceptor):
    """All interceptors, outermost first, as one: each method's handler is wrapped once, and not for every call."""

    def __init__(self, parts: Sequence[Around]) -> None:
        self._parts = tuple(parts)
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            wrapped = handler
            for part in reversed(self._parts):
                wrapped = part.wrap(wrapped, method)
            known = self._wrapped[method] = (handler, wrapped)
        return known[1]


class Around(abc.ABC):
    """Base of the interceptors: :meth:`call` runs around the handler, which keeps its kind of streaming.

    Handlers are coroutines: those that stream write to their context.
    """

    def wrap(self, handler: Handler, method: str) -> Handler:
        """``handler`` of ``method`` with this around it, for all calls."""
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        behaviour: Behaviour = getattr(handler, kind)

        async def wrapped(request: Any, context: Context) -> Any:
            return await self.call(behaviour, request, context, CallDetails(method, context))

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(
            wrapped,
            request_deserializer=self.decoder(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return made

    def decoder(self, decode: Decoder | None) -> Decoder | None:
        """What makes requests of bytes, for :meth:`call` to receive."""
        return decode

    @abc.abstractmethod
    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: CallDetails) -> Any:
        """Runs ``behaviour(request, context)``, and whatever belongs around it."""


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for a request whose bytes are not a message of its type."""

    reason: str


class MaskErrors(Around):
    """Turns whatever a handler raises into a status. Of a bug the client learns an id, the log everything."""

    def decoder(self, decode: Decoder | None) -> Decoder | None:
        if decode is None:
            return None

        def decode_or_tell(data: bytes) -> Any:
            try:
                return decode(data)
            except Exception as error:
                return Undecodable(str(error))

        return decode_or_tell

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: CallDetails) -> Any:
        try:
            if isinstance(request, Undecodable):
                raise InvalidRequest([Violation("", f"the request is not a message of its type: {request.reason}")])
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
                return None
            error_id = uuid.uuid4().hex[:12]
            logger.exception("%s: internal error %s", details.method, error_id)
            await internal_status(error_id).abort(context)


class LogCalls(Around):
    """One line per call when it is over, with the id that the caller gave it or a new one."""

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: CallDetails) -> Any:
        started = time.monotonic()
        code = "OK"
        try:
            return await behaviour(request, context)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except grpc.aio.AbortError:
            code = _code_name(context)
            raise
        except ServiceError as error:
            code = status_of(error).code.name
            raise
        except grpc.aio.BaseError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL.name
            raise
        finally:
            level = logging.INFO if details.method.startswith(_OWN_SERVICE) else logging.DEBUG
            logger.log(
                level,
                "method=%s code=%s ms=%.1f peer=%s request_id=%s",
                details.method,
                code,
                1000 * (time.monotonic() - started),
                context.peer(),
                _id_of(details),
            )


def _id_of(details: CallDetails) -> str:
    for key, value in details.invocation_metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTABLE_ID.fullmatch(value):
            return value
    return f"{_OWN_IDS}{next(_NUMBERS):08x}"


def _code_name(context: Context) -> str:
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else str(code)


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

    def wrap(self, handler: Handler, method: str) -> Handler:
        return super().wrap(handler, method) if handler.response_streaming else handler

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: CallDetails) -> Any:
        with self._limits.hold(client_of(context.peer())):
            return await behaviour(request, context)


def client_of(peer: str) -> str:
    """The client in a peer's address: all connections of one host count as one."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
