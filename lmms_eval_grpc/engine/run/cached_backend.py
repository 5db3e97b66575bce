"""A backend that looks into the response cache first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Generic, TypeVar, overload

from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Backend,
    Capabilities,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
    Request,
)
from lmms_eval_grpc.engine.run.request_key import request_key
from lmms_eval_grpc.engine.run.response_cache import ResponseCache

R = TypeVar("R", bound=Request)

_BUNDLE = 64
"""Responses from the cache that are handed on together, where the model answers nothing in between."""


class CachedBackend:
    """``backend``, asked only what the cache does not know; its responses are kept as each batch is done.

    Of equal requests in one call the model is asked one, and the others share its response.
    """

    def __init__(
        self,
        backend: Backend,
        cache: ResponseCache,
        circumstances: Mapping[str, Any],
        *,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """``circumstances`` are what answers depend on beside the backend's identity, such as the kind of device;
        ``identity`` takes its place where it says too much of where things lie on this machine."""
        self._backend = backend
        self._cache = cache
        self._key_identity = {"backend": dict(identity or backend.identity), **circumstances}

    @property
    def capabilities(self) -> Capabilities:
        return self._backend.capabilities

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._backend.identity

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        return self._ask(requests, self._backend.generate)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        return self._ask(requests, self._backend.loglikelihood)

    def close(self) -> None:
        """Closes the cache, and leaves the backend to whoever made it."""
        self._cache.close()

    def _ask(
        self, requests: Sequence[R], ask: Callable[[Sequence[R]], Iterator[list[Answer]]]
    ) -> Iterator[list[Answer]]:
        """Lazily, as the backend fetches: no request is built twice, and none before the backend wants it."""
        fetched = _Fetched(requests, self._key_of, self._cache)
        ready: list[Answer] = []
        with closing(_iterate(ask(fetched))) as batches:
            for batch in batches:
                generated = [answer for answer in batch if not fetched.is_withheld(answer.index)]
                # Asked again: by now the backend may know better what the server takes.
                self._cache.put(fetched.keyed(generated, lambda request: not self._may_sample(request)))
                ready += fetched.settle(batch)
                if generated or not batch or len(ready) >= _BUNDLE:
                    yield ready
                    ready = []
        if ready:
            yield ready

    def _key_of(self, request: Request) -> str | None:
        """None for a request that samples, whose next response may be another."""
        return None if self._may_sample(request) else request_key(request, self._key_identity)

    def _may_sample(self, request: Request) -> bool:
        if isinstance(request, LoglikelihoodRequest):
            return False
        return self._backend.capabilities.may_sample(request.generation)


class _AlreadyAskedError(Exception):
    """Raised in place of a request that the model need not see. What a backend makes of it is never shown."""


class _Fetched(Sequence[R], Generic[R]):
    """The requests as the backend gets them, and what became of each.

    A backend makes an exception of a fetch that request's error and goes on (see :class:`.protocol.Backend`), which is
    how requests with a known response are kept from the model. Fetches may come from another thread.
    """

    def __init__(self, requests: Sequence[R], key_of: Callable[[R], str | None], cache: ResponseCache) -> None:
        self._requests = requests
        self._key_of = key_of
        self._cache = cache
        self._lock = threading.Lock()
        self._keys: dict[int, str] = {}
        """By position, of requests that are being asked, and of those that wait for one of them."""
        self._asked: dict[str, int] = {}
        """Position of the request that the model gets, by key."""
        self._known: dict[str, GenerationResponse] = {}
        """Responses by key, of the cache and of this call."""
        self._open: dict[int, R] = {}
        """Requests with a key that the model has got and not answered, by position, without their messages."""
        self._withheld: set[int] = set()
        self._waiting: dict[str, list[int]] = {}
        """Positions of withheld requests by the key of the equal one that is being asked."""

    def __len__(self) -> int:
        return len(self._requests)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...
    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        request = self._requests[index]
        key = self._key_of(request)
        if key is None:
            return request
        known = self._cache.get(key)
        with self._lock:
            self._keys[index] = key
            if known is not None:
                self._known.setdefault(key, known)
            elif key not in self._known and self._asked.setdefault(key, index) == index:
                self._open[index] = replace(request, messages=())
                return request
            self._withheld.add(index)
        raise _AlreadyAskedError

    def is_withheld(self, index: int) -> bool:
        with self._lock:
            return index in self._withheld

    def keyed(self, answers: Sequence[Answer], may_keep: Callable[[R], bool]) -> dict[str, GenerationResponse]:
        """The model's own responses by key, as far as they may be kept. To be called once for each answer."""
        with self._lock:
            asked = [(answer, self._open.pop(answer.index, None)) for answer in answers]
            return {
                self._keys[answer.index]: answer.response
                for answer, request in asked
                if request is not None and may_keep(request)
            }

    def settle(self, batch: Sequence[Answer]) -> list[Answer]:
        """The batch with known responses in place of what the backend made of withheld requests.

        One whose equal is still being asked is left out until that is answered.
        """
        settled: list[Answer] = []
        with self._lock:
            for answer in batch:
                key = self._keys.get(answer.index)
                if key is None:
                    settled.append(answer)
                elif answer.index not in self._withheld:
                    settled.append(answer)
                    shared = self._known[key] = replace(answer.response, cached=answer.response.error is None)
                    settled += [Answer(index, shared) for index in self._waiting.pop(key, ())]
                elif key in self._known:
                    # With those that waited: one that was being asked when its process died may be in the cache when it
                    # is fetched again, and will not be answered by the model then.
                    asked = [answer.index, *self._waiting.pop(key, ())]
                    settled += [Answer(index, self._known[key]) for index in asked]
                else:
                    self._waiting.setdefault(key, []).append(answer.index)
        return settled


def _iterate(batches: Iterator[list[Answer]]) -> Any:
    """``batches`` as a generator, so that it can be closed whatever it is; closing it closes them."""
    try:
        yield from batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
