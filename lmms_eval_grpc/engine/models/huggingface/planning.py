"""Which requests share a batch: equal generation arguments, alike in length, none held longer than needed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.huggingface.media import Media
from lmms_eval_grpc.engine.models.huggingface.prefetch import Demand
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationResponse, Request

R = TypeVar("R", bound=Request)

WINDOW_REQUESTS = 512
"""Requests that are looked at together, beside those left over from before whose batch is not full yet; sorting needs
many, memory and the wait for the first batch few."""
FIRST_WINDOW = 64
"""Requests of the first window where it may not be cut early; each further one is twice as large."""
WINDOW_PIXELS = 128 * 1024 * 1024
"""Decoded pixels of a window's media, at most (three bytes each)."""
PATIENCE = 0.1
"""Seconds after which an idle model gets what is prepared, though the window is not full; unless the rest, at the pace
so far, is there in as many again: two batches take longer than one."""
FREE_PADDING = 2048
"""Tokens of padding in a batch that are cheaper than another batch."""
TOGETHER = 8
"""Small requests that are handed to a preparing thread at once, at most: handing one over takes as long as preparing
it may."""
HANDED_SECONDS = 0.004
"""Of work that is handed over at once, about: who waits for the first of several waits for all."""
FETCH_SECONDS = 0.002
"""How long small requests are fetched before those that are there are handed over: others wait for slow fetching."""
QUICK_SECONDS = 0.001
"""Of a request that is not worth a hand-over at all: those that follow are prepared where they are fetched."""
SMALL_PIXELS = 128 * 1024
"""Pixels of a small request; others are handed over one by one."""


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request with its prompt rendered and its media decoded."""

    index: int
    prompt: str
    media: Media
    generation: Mapping[str, Any]
    key: str
    cost: float
    """Roughly its tokens; only for sorting and for what may share a batch."""
    continuation: tuple[int, ...] = ()
    """Tokens whose likelihood is asked for; empty: an answer is to be generated."""
    draw: str = ""
    """Names its random numbers, as the request does."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that go through the model together, and the tensors made of them."""

    requests: Sequence[PreparedRequest]
    inputs: Any


@dataclass(frozen=True, slots=True)
class Prepared:
    """One step of preparation: a batch, requests that turned out to be broken, or both."""

    batch: Batch | None = None
    broken: list[Answer] = field(default_factory=list)


def describe_failure(error: BaseException) -> str:
    """One line for a request's ``error``."""
    return f"{type(error).__name__}: {error}".strip()


def broken(index: int, error: BaseException) -> Answer:
    return Answer(index, GenerationResponse(error=describe_failure(error)))


def share_key(what: str, media: Media) -> str:
    """Requests with different keys never share a batch. ``what`` names what is asked for, with which arguments."""
    return f"{media.kinds} {what}"


@dataclass(frozen=True)
class Planner(Generic[R]):
    """Goes through requests once, in windows; longest first within each, so that memory trouble shows early.

    Requests are fetched one after the other; preparing and encoding them is a pool's work, and the order of everything
    is that of the requests, however many threads it has. A request that cannot be fetched, prepared or encoded becomes
    a ``broken`` answer and takes nobody with it; an :class:`EvaluationError` other than a document's own ends it all.
    """

    prepare: Callable[[int, R], PreparedRequest]
    """Decodes one request."""
    encode: Callable[[Sequence[PreparedRequest]], Any]
    """Makes a batch's tensors."""
    choose_size: Callable[[PreparedRequest], int]
    """How many requests like this one make a batch."""
    cut_early: bool
    """Whether an idle model may have what there is of a window; if not, batches depend on the requests alone."""

    def plan(self, requests: Sequence[R], pool: Executor, demand: Demand) -> Iterator[Future[Prepared]]:
        """The steps in their order, each being worked on when it is yielded."""
        urgent = ThreadPoolExecutor(1, thread_name_prefix="encode")
        try:
            yield from self._plan(requests, pool, urgent, demand)
        finally:
            urgent.shutdown(cancel_futures=demand.closed)

    def _plan(
        self, requests: Sequence[R], pool: Executor, urgent: Executor, demand: Demand
    ) -> Iterator[Future[Prepared]]:
        """``urgent`` encodes what an idle model waits for, which is not to stand behind what the pool prepares."""
        window: list[PreparedRequest] = []
        pixels, began, taken = 0, time.monotonic(), 0
        room = WINDOW_REQUESTS if self.cut_early else FIRST_WINDOW
        for number, prepared in enumerate(self._prepare_all(requests, pool, demand), start=1):
            if isinstance(prepared, Answer):
                yield _finished(Prepared(broken=[prepared]))
                continue
            window.append(prepared)
            pixels += prepared.media.pixels
            crowded = pixels >= WINDOW_PIXELS
            hungry = False
            if self.cut_early and demand.waiting:
                left = min(room - len(window), len(requests) - number)
                hungry = is_late(time.monotonic() - began, number - taken, left)
            if len(window) >= room or crowded or hungry:
                chunks, window = self._cut(window, keep_rest=not (crowded or hungry))
                for chunk in chunks:
                    yield (urgent if demand.waiting else pool).submit(encode_or_isolate, chunk, self.encode)
                pixels, began, taken = sum_pixels(window), time.monotonic(), number
                room = max(min(WINDOW_REQUESTS, 2 * room), len(window) + FIRST_WINDOW)
        for chunk in self._cut(window, keep_rest=False)[0]:
            yield pool.submit(encode_or_isolate, chunk, self.encode)

    def _prepare_all(self, requests: Sequence[R], pool: Executor, demand: Demand) -> Iterator[PreparedRequest | Answer]:
        """All requests in their order; answers are to those that cannot be prepared."""
        ahead: deque[Future[tuple[list[PreparedRequest | Answer], float]]] = deque()
        index, taken, together, quick = 0, 0, 1, False
        room = demand.threads + 1
        while (index < len(requests) or ahead) and not demand.closed:
            if index < len(requests):
                fetched = self._fetch_some(requests, range(index, min(index + together, len(requests))))
                index += len(fetched)
                if quick:
                    ahead.append(_finished(self._prepare_some(fetched, demand)))
                else:
                    ahead.append(pool.submit(self._prepare_some, fetched, demand))
            while ahead and (quick or ahead[0].done() or index - taken > room or index == len(requests)):
                done, seconds = ahead.popleft().result()
                yield from done
                taken += len(done)
                pixels = sum_pixels([one for one in done if isinstance(one, PreparedRequest)])
                small = pixels <= SMALL_PIXELS * len(done)
                quick = small and seconds <= QUICK_SECONDS * len(done)
                at_once = TOGETHER if quick else min(TOGETHER, int(HANDED_SECONDS * len(done) / max(seconds, 1e-9)))
                together = max(1, at_once) if small else 1
                # Small ones queue up, so that nobody waits for this thread, which may not get to run for a while.
                room = (demand.threads + 1) * (TOGETHER if small else 1)

    def _fetch_some(self, requests: Sequence[R], indices: Sequence[int]) -> list[tuple[int, R | Answer]]:
        fetched: list[tuple[int, R | Answer]] = []
        began = time.perf_counter()
        for index in indices:
            try:
                fetched.append((index, requests[index]))
            except Exception as error:
                fetched.append((index, _broken_unless_fatal(index, error)))
            if time.perf_counter() - began > FETCH_SECONDS:
                break
        return fetched

    def _prepare_some(
        self, fetched: Sequence[tuple[int, R | Answer]], demand: Demand
    ) -> tuple[list[PreparedRequest | Answer], float]:
        """What became of each, and the seconds that all took."""
        prepared: list[PreparedRequest | Answer] = []
        began = time.perf_counter()
        for index, request in fetched:
            if demand.closed:
                break
            try:
                prepared.append(request if isinstance(request, Answer) else self.prepare(index, request))
            except Exception as error:
                prepared.append(_broken_unless_fatal(index, error))
        return prepared, time.perf_counter() - began

    def _cut(
        self, window: Sequence[PreparedRequest], *, keep_rest: bool
    ) -> tuple[list[Sequence[PreparedRequest]], list[PreparedRequest]]:
        """The window's batches, and what is left over: nothing unless ``keep_rest``."""
        groups: dict[str, list[PreparedRequest]] = {}
        for request in sorted(window, key=lambda request: request.cost, reverse=True):
            groups.setdefault(request.key, []).append(request)
        chunks: list[Sequence[PreparedRequest]] = []
        rest: list[PreparedRequest] = []
        for group in groups.values():
            while group:
                size = self.choose_size(group[0])
                if keep_rest and len(group) < size:
                    rest += group
                    break
                size = even_size(group, size)
                chunks.append(group[:size])
                group = group[size:]
        return chunks, rest


def is_late(waited: float, prepared: int, left: int) -> bool:
    """Whether an idle model that waited for ``prepared`` requests (seconds) is not to wait for ``left`` more."""
    return waited >= PATIENCE and waited / prepared * left >= PATIENCE


def even_size(group: Sequence[PreparedRequest], size: int) -> int:
    """How many of the group, which is sorted, share its first batch: ``size``, or fewer where the rest is much shorter.

    Rows of less than half of the longest one's length would be padding for the most part.
    """
    longest, padding = group[0].cost, 0.0
    for number, request in enumerate(group[:size]):
        padding += longest - request.cost
        if request.cost < longest / 2 and padding > FREE_PADDING:
            return number
    return min(size, len(group))


def sum_pixels(window: Sequence[PreparedRequest]) -> int:
    return sum(request.media.pixels for request in window)


def encode_or_isolate(chunk: Sequence[PreparedRequest], encode: Callable[[Sequence[PreparedRequest]], Any]) -> Prepared:
    """Encodes the chunk; if that fails, finds those to blame by encoding each alone and leaves them out."""
    try:
        return Prepared(Batch(chunk, encode(chunk)))
    except Exception as error:
        if len(chunk) == 1:
            return Prepared(broken=[broken(chunk[0].index, error)])
    sound: list[PreparedRequest] = []
    answers: list[Answer] = []
    for request in chunk:
        try:
            encode([request])
            sound.append(request)
        except Exception as error:
            answers.append(broken(request.index, error))
    if len(sound) == len(chunk):  # each is fine alone: the fault is in the combination
        return Prepared(Batch(chunk, encode(chunk)))
    return Prepared(Batch(sound, encode(sound)) if sound else None, answers)


def _broken_unless_fatal(index: int, error: Exception) -> Answer:
    if isinstance(error, EvaluationError) and error.reason != "DOCUMENT_FAILED":
        raise error
    return broken(index, error)


T = TypeVar("T")


def _finished(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future
