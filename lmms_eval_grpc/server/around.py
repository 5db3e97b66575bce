"""What every interceptor is made of: something that runs around a handler."""

from __future__ import annotations

import abc
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Decoder = Callable[[bytes], Any]
Encoder = Callable[[Any], bytes]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


def metadata_of(context: Context) -> Sequence[tuple[str, str | bytes]]:
    """What came with a call."""
    metadata: Any = context.invocation_metadata()
    return tuple(metadata or ())


class AllAround(grpc.aio.ServerInterceptor):
    """All interceptors, outermost first, as one: each method's handler is wrapped once, and not for every call.

    ``unknown`` is called for a call of a method that there is none of, ``unary`` for one that is answered with one
    message.
    """

    def __init__(self, parts: Sequence[Around], unknown: Callable[[], None], unary: Callable[[], None]) -> None:
        self._parts = tuple(parts)
        self._unknown = unknown
        self._unary = unary
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._unknown()
            return None
        if not handler.response_streaming:
            self._unary()
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
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(
            functools.partial(self.call, behaviour, method=method),
            request_deserializer=self.decoder(handler.request_deserializer),
            response_serializer=self.encoder(handler.response_serializer, method, streaming=handler.response_streaming),
        )
        return made

    def decoder(self, decode: Decoder | None) -> Decoder | None:
        """What makes requests of bytes, for :meth:`call` to receive."""
        return decode

    def encoder(self, encode: Encoder | None, method: str, *, streaming: bool) -> Encoder | None:
        """What makes bytes of the responses of ``method``."""
        return encode

    @abc.abstractmethod
    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        """Runs ``behaviour(request, context)``, and whatever belongs around it."""


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
