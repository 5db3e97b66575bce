"""How the sync client talks: its channels, single calls, pages, and streams that outlive their connection.

`aio_transport` is the asyncio twin.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from lmms_eval_grpc.client.base import PagedRequest, PagedResponse, Settings
from lmms_eval_grpc.client.channel import HEALTH_CHECK, SERVICE, open_channel
from lmms_eval_grpc.client.errors import raise_typed
from lmms_eval_grpc.client.streams import Reconnection, Resume
from lmms_eval_grpc.client.stubs import Stub as _Stub
from lmms_eval_grpc.client.tracing import trace_metadata

if TYPE_CHECKING:
    from grpc import _CallIterator as _ResponseIterator

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")
_ItemT = TypeVar("_ItemT")
_PagedRequestT = TypeVar("_PagedRequestT", bound=PagedRequest)
_PagedResponseT = TypeVar("_PagedResponseT", bound=PagedResponse)


class Connection:
    """Two channels: long streams must not starve calls."""

    def __init__(self, settings: Settings) -> None:
        self._channels = [open_channel(settings.address, settings.credentials) for _ in range(2)]
        for_calls, for_watches = self._channels
        self.calls = _Stub(for_calls)
        self.watches = _Stub(for_watches)
        # On the wire, the health service's messages are these well-known types: one field, number 1.
        self.health: grpc.UnaryUnaryMultiCallable[StringValue, Int32Value] = for_calls.unary_unary(
            HEALTH_CHECK,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class Transport:
    """Dials at the first call, and again in a forked child. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._pid = os.getpid()

    def connected(self) -> Connection:
        """This process's connection.

        Raises:
            RuntimeError: the client is closed.
        """
        if self._pid != os.getpid():
            self._forget_the_parent()
        if self._closed.is_set():
            raise RuntimeError("this EvalClient is closed; make a new one")
        with self._lock:
            if self._connection is None:
                self._connection = Connection(self._settings)
            return self._connection

    def close(self) -> None:
        """Closes the connection and ends the streams that are open. May be called again."""
        self._closed.set()
        if self._pid != os.getpid():
            self._forget_the_parent()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def sleep(self, seconds: float) -> None:
        """Waits; returns early when the client is closed."""
        self._closed.wait(seconds)

    def unary(
        self,
        method: Callable[[_Stub], grpc.UnaryUnaryMultiCallable[_RequestT, _ResponseT]],
        request: _RequestT,
        timeout: float | None = None,
    ) -> _ResponseT:
        """Calls the stub's `method`, in `timeout` seconds or the settings' own.

        Raises:
            EvalServiceError: the call failed.
        """
        try:
            return method(self.connected().calls)(
                request,
                timeout=timeout or self._settings.call_timeout,
                metadata=(*self._settings.token.metadata(), *trace_metadata()),
            )
        except grpc.RpcError as error:
            raise_typed(error, address=str(self._settings.address))

    def health_status(self, timeout: float | None = None) -> int:
        """The service's `HealthCheckResponse.ServingStatus`.

        Args:
            timeout: Seconds. None: the settings' own.

        Raises:
            EvalServiceError: the call failed.
        """
        timeout = timeout or self._settings.call_timeout
        try:
            answer = self.connected().health(StringValue(value=SERVICE), timeout=timeout)
        except grpc.RpcError as error:
            raise_typed(error, address=str(self._settings.address))
        return answer.value

    def pages(
        self,
        method: Callable[[_Stub], grpc.UnaryUnaryMultiCallable[_PagedRequestT, _PagedResponseT]],
        request: _PagedRequestT,
    ) -> Iterator[_PagedResponseT]:
        """Yields page after page. `request` asks for the first and is used up."""
        while True:
            page = self.unary(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def follow(
        self,
        method: Callable[[_Stub], grpc.UnaryStreamMultiCallable[_RequestT, _ResponseT]],
        state: Resume[_RequestT, _ResponseT, _ItemT],
        waiting: Reconnection,
        silence_limit: float | None = None,
    ) -> Iterator[_ItemT]:
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
            error = None
            try:
                while (response := _next_message(call, silence_limit)) is not None:
                    waiting.succeeded()
                    yield from state.accept(response)
                    if state.ended:
                        return
                state.finish()
            except grpc.RpcError as failed:
                error = None if self._settings.token.was_renewed(failed, metadata) else failed
            finally:
                call.cancel()
            if state.ended:
                return
            self.sleep(waiting.delay_after(error))

    def _forget_the_parent(self) -> None:
        """In a forked child: the parent's channels do not work here, and its lock may have been held at the fork."""
        _inherited.append(self._connection)
        self._connection = None
        self._lock = threading.Lock()
        self._pid = os.getpid()


_inherited: list[Connection | None] = []
"""Connections of parent processes, kept: to destroy them here could block, as the threads that they need are gone."""


def _next_message(call: _ResponseIterator[_ResponseT], silence_limit: float | None) -> _ResponseT | None:
    """The next message; None when the server has ended the call. A call silent for too long is cancelled."""
    if silence_limit is None:
        return next(call, None)
    watchdog = threading.Timer(silence_limit, call.cancel)
    watchdog.daemon = True
    watchdog.start()
    try:
        return next(call, None)
    finally:
        watchdog.cancel()
