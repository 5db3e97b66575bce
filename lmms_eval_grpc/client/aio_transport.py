"""How the asyncio client talks: `transport`'s twin."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from lmms_eval_grpc.client.base import PagedRequest, PagedResponse, Settings
from lmms_eval_grpc.client.channel import HEALTH_CHECK, SERVICE, open_aio_channel
from lmms_eval_grpc.client.errors import raise_typed
from lmms_eval_grpc.client.streams import Reconnection, Resume
from lmms_eval_grpc.client.stubs import Stub
from lmms_eval_grpc.client.tracing import trace_metadata

if TYPE_CHECKING:
    from lmms_eval_grpc.client.stubs import AsyncStub as _Stub

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")
_ItemT = TypeVar("_ItemT")
_PagedRequestT = TypeVar("_PagedRequestT", bound=PagedRequest)
_PagedResponseT = TypeVar("_PagedResponseT", bound=PagedResponse)


class AioConnection:
    """Two channels: long streams must not starve calls."""

    def __init__(self, settings: Settings) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self._channels = [open_aio_channel(settings.address, settings.credentials) for _ in range(2)]
        for_calls, for_watches = self._channels
        self.calls = cast("_Stub", Stub(for_calls))
        self.watches = cast("_Stub", Stub(for_watches))
        # On the wire, the health service's messages are these well-known types: one field, number 1.
        self.health: grpc.aio.UnaryUnaryMultiCallable[StringValue, Int32Value] = for_calls.unary_unary(
            HEALTH_CHECK,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class AioTransport:
    """Dials at the first call, and belongs to that call's event loop from then on. Tasks may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._closed = asyncio.Event()
        self._connection: AioConnection | None = None
        self._streams: set[grpc.aio.UnaryStreamCall[Any, Any]] = set()

    def connected(self) -> AioConnection:
        """The connection.

        Raises:
            RuntimeError: the client is closed, or was first used in another event loop or before a fork.
        """
        if self._closed.is_set():
            self._refuse()
        if self._connection is None:
            self._connection = AioConnection(self._settings)
        elif self._connection.pid != os.getpid():
            raise RuntimeError(
                "this AsyncEvalClient was used before the process forked, which grpc.aio does not survive;"
                " start the process by spawn, or use EvalClient, which dials anew in a forked child"
            )
        elif self._connection.loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this AsyncEvalClient belongs to the event loop of its first call, and this is another one;"
                " make one client per asyncio.run()"
            )
        return self._connection

    async def close(self) -> None:
        """Closes the connection and ends the streams that are open. May be called again."""
        if self._connection is not None and not self._closed.is_set():
            connection = self.connected()
            self._closed.set()
            # Older versions of grpc.aio overlook them when the channel is closed.
            for call in self._streams:
                call.cancel()
            await connection.close()
        self._closed.set()

    async def sleep(self, seconds: float) -> None:
        """Waits; returns early when the client is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def unary(
        self,
        method: Callable[[_Stub], grpc.aio.UnaryUnaryMultiCallable[_RequestT, _ResponseT]],
        request: _RequestT,
        timeout: float | None = None,
    ) -> _ResponseT:
        """Calls the stub's `method`, in `timeout` seconds or the settings' own.

        Raises:
            EvalServiceError: the call failed.
        """
        try:
            return await method(self.connected().calls)(
                request,
                timeout=timeout or self._settings.call_timeout,
                metadata=(*self._settings.token.metadata(), *trace_metadata()),
            )
        except grpc.RpcError as error:
            raise_typed(error, address=str(self._settings.address))
        except asyncio.CancelledError as cancelled:
            self._reraise(cancelled)

    async def health_status(self, timeout: float | None = None) -> int:
        """The service's `HealthCheckResponse.ServingStatus`.

        Args:
            timeout: Seconds. None: the settings' own.

        Raises:
            EvalServiceError: the call failed.
        """
        timeout = timeout or self._settings.call_timeout
        request = StringValue(value=SERVICE)
        try:
            answer = await self.connected().health(request, timeout=timeout)
        except grpc.RpcError as error:
            raise_typed(error, address=str(self._settings.address))
        except asyncio.CancelledError as cancelled:
            self._reraise(cancelled)
        return answer.value

    async def pages(
        self,
        method: Callable[[_Stub], grpc.aio.UnaryUnaryMultiCallable[_PagedRequestT, _PagedResponseT]],
        request: _PagedRequestT,
    ) -> AsyncGenerator[_PagedResponseT, None]:
        """Yields page after page. `request` asks for the first and is used up."""
        while True:
            page = await self.unary(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def follow(
        self,
        method: Callable[[_Stub], grpc.aio.UnaryStreamMultiCallable[_RequestT, _ResponseT]],
        state: Resume[_RequestT, _ResponseT, _ItemT],
        waiting: Reconnection,
        silence_limit: float | None = None,
    ) -> AsyncGenerator[_ItemT, None]:
        """Yields what is new in a stream's messages, across as many connections as it takes.

        Args:
            method: Takes the method from a stub.
            state: What was delivered, and when it ends.
            waiting: Whether and when to try again.
            silence_limit: Seconds without a message after which a connection is taken for dead. None: no limit.
        """
        while True:
            metadata = self._settings.token.metadata()
            call = method(self.connected().watches)(
                state.request(), timeout=waiting.time_left(), metadata=(*metadata, *trace_metadata())
            )
            self._streams.add(call)
            error = None
            try:
                while (response := await self._next_message(call, silence_limit)) is not None:
                    waiting.succeeded()
                    for item in state.accept(response):
                        yield item
                    if state.ended:
                        return
                state.finish()
            except grpc.RpcError as failed:
                error = None if self._settings.token.was_renewed(failed, metadata) else failed
            finally:
                self._streams.discard(call)
                call.cancel()
            if state.ended:
                return
            await self.sleep(waiting.delay_after(error))

    async def _next_message(
        self, call: grpc.aio.UnaryStreamCall[Any, _ResponseT], silence_limit: float | None
    ) -> _ResponseT | None:
        """The next message; None when the server has ended the call."""
        try:
            async with asyncio.timeout(silence_limit):
                response = await call.read()
        except TimeoutError:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.CANCELLED, nothing, nothing, f"nothing heard for {silence_limit:g} s"
            ) from None
        except asyncio.CancelledError as cancelled:
            self._reraise(cancelled)
        return None if response is grpc.aio.EOF else cast(_ResponseT, response)

    def _reraise(self, cancelled: asyncio.CancelledError) -> NoReturn:
        """grpc.aio raises CancelledError when the channel is closed, too, and then nobody has cancelled the task."""
        task = asyncio.current_task()
        if self._closed.is_set() and task is not None and not task.cancelling():
            self._refuse()
        raise cancelled

    def _refuse(self) -> NoReturn:
        raise RuntimeError("this AsyncEvalClient is closed; make a new one")
