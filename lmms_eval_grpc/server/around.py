"""What every interceptor is made of: something that runs around a handler."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Decoder = Callable[[bytes], Any]
Encoder = Callable[[Any], bytes]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Details = grpc.HandlerCallDetails


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
