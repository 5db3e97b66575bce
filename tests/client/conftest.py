"""A scripted server, and both clients behind one face, so that each test runs against each."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmms_eval_grpc.client import AsyncEvalClient, AsyncSampleReader, EvalClient
from tests.client.scripted_server import ScriptedServer, Servicer


class BlockingAsyncClient:
    """An `AsyncEvalClient` that is used like an `EvalClient`: its event loop runs in a thread."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncEvalClient(*args, **settings)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **keywords: Any) -> Any:
            result = attribute(*args, **keywords)
            if hasattr(result, "__anext__"):  # first: a watch can be awaited, too
                return self._iterate(result)
            if isinstance(result, AsyncSampleReader):
                return BlockingReader(self, result)
            return self._run(result) if inspect.isawaitable(result) else result

        return call

    def shut_down(self) -> None:
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, awaitable: Any) -> Any:
        async def run() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _iterate(self, generator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    item = self._run(anext(generator))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._run(generator.aclose())


class BlockingReader:
    """The samples of a `BlockingAsyncClient`, read like those of an `EvalClient`."""

    def __init__(self, client: BlockingAsyncClient, reader: AsyncSampleReader) -> None:
        self._client, self._reader = client, reader

    def __iter__(self) -> Iterator[Any]:
        return self._client._iterate(aiter(self._reader))

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._client._run(getattr(self._reader, name)(*arguments))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def servicer(server: ScriptedServer) -> Servicer:
    return server.servicer


@pytest.fixture(params=["sync", "aio"])
def make_client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind, for the scripted server unless told otherwise."""
    made: list[Any] = []

    def make(address: str | None = None, *args: Any, **settings: Any) -> Any:
        kind = EvalClient if request.param == "sync" else BlockingAsyncClient
        made.append(kind(address or server.address, *args, **settings))
        return made[-1]

    yield make
    for client in made:
        client.close() if isinstance(client, EvalClient) else client.shut_down()


@pytest.fixture
def client(make_client: Callable[..., Any]) -> Any:
    return make_client()
