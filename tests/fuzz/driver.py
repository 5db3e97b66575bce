"""Sends generated requests to a server, many at once, and holds every answer against the rules."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lmms_eval_grpc.server.principals import Role
from tests.fuzz.corpus_files import keep, kept_requests
from tests.fuzz.grammar import Facts, Grammar
from tests.fuzz.methods import BY_NAME, UNKNOWN_METHODS
from tests.fuzz.rules import Answer, Request
from tests.fuzz.target import Target
from tests.support.access import bearer

CHANNELS = 4
CALLERS = 24
"""Calls under way at once."""
PATIENCE = 30.0
"""Seconds after which a call counts as hung."""
_CLIENTS_OWN = "Internal error from Core"
"""What grpc.aio's client says of a stream that the server ends while it still writes; no server has these words."""
_MOST_MESSAGES = 6
_MOST_KEPT = 20
_SLOWEST = 10
_STRANGERS = 0.08
"""Share of the calls without valid credentials, where the server asks for them."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass
class Report:
    """What came of a run."""

    seed: int
    requests: int = 0
    seconds: float = 0.0
    codes: dict[str, Counter[str]] = field(default_factory=dict)
    """By method."""
    raw_connections: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    kept: list[str] = field(default_factory=list)
    """Files with requests that broke a rule."""
    slowest: list[tuple[float, str, str]] = field(default_factory=list)
    """Seconds, method and code."""
    rss_mib: dict[str, float] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    logged_tracebacks: int = 0

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        codes = {path: dict(counter.most_common()) for path, counter in sorted(self.codes.items())}
        total: Counter[str] = Counter()
        for counter in self.codes.values():
            total.update(counter)
        return {
            "seed": self.seed,
            "requests": self.requests,
            "seconds": round(self.seconds, 1),
            "requests_per_second": round(self.requests / max(self.seconds, 1e-9), 1),
            "codes": dict(total.most_common()),
            "codes_by_method": codes,
            "raw_connections": self.raw_connections,
            "problems": dict(self.problems.most_common()),
            "kept": self.kept,
            "slowest_s": [[round(seconds, 3), method, code] for seconds, method, code in self.slowest],
            "server_rss_mib": self.rss_mib,
            "server": self.server,
            "logged_tracebacks": self.logged_tracebacks,
        }


class Driver:
    """One run against one server."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._rng = random.Random(seed)
        self.report = Report(seed)
        self.facts = Facts(target.caller)
        self.facts.owners += [caller.name for caller in target.callers]
        seeds = [(kept.path, message) for kept in kept_requests() for message in kept.request(target.caller).messages]
        self._grammar = Grammar(self._rng, self.facts, seeds)
        self._channels: list[Any] = []
        self._seen: set[str] = set()

    async def run(self, *, requests: int | None = None, seconds: float | None = None) -> Report:
        """Until so many requests were sent, or so much time has passed."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 64 * 2**20),
            ("grpc.max_metadata_size", 64 * 1024),
        ]
        self._channels = [grpc.aio.insecure_channel(self._target.address, options) for _ in range(CHANNELS)]
        began = time.monotonic()

        def share() -> float:
            if requests is not None:
                return self.report.requests / requests
            return (time.monotonic() - began) / (seconds or 1.0)

        try:
            await self._look_around()
            self.report.rss_mib["start"] = self._target.rss_mib
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(self._call_on(share))
                callers.create_task(self._connect_raw(share))
                callers.create_task(self._weigh(share))
        finally:
            for channel in self._channels:
                await channel.close()
        self.report.seconds = time.monotonic() - began
        if self._target.alive:
            self.report.rss_mib["end"] = self._target.rss_mib
        else:
            self.report.problems["the server has died"] += 1
        self.report.server = self._target.figures()
        self.report.logged_tracebacks = self._target.logged_tracebacks()
        for name in self._target.leaked_tokens():
            self._complain(f"the token of {name} is in a log")
        return self.report

    async def answer(self, request: Request, channel: Any, most: int = _MOST_MESSAGES) -> Answer:
        """Sends one request and reads at most so many messages."""
        method = request.method
        options: dict[str, Any] = {"metadata": request.metadata or None, "timeout": request.timeout or PATIENCE}
        call: Any
        if method.takes_many:
            call = channel.stream_stream(method.path)(iter(request.messages), **options)
        elif method.gives_many:
            call = channel.unary_stream(method.path)(request.messages[0], **options)
        else:
            call = channel.unary_unary(method.path)(request.messages[0], **options)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            if method.takes_many or method.gives_many:
                await self._read(request, call, most)
            else:
                self._learn(request, await call)
        code = await call.code()
        return Answer(code, (await call.details()) or "", tuple((await call.trailing_metadata()) or ()))

    async def _read(self, request: Request, call: Any, most: int) -> None:
        """At most so many messages; a stream that follows may say nothing for long, and is left then."""
        for _ in range(most):
            reading = asyncio.ensure_future(call.read())
            done, _ = await asyncio.wait({reading}, timeout=0.05 if request.gives_up else None)
            if not done:
                call.cancel()
            data = await reading
            if data is grpc.aio.EOF:
                return
            self._learn(request, data)
        call.cancel()

    async def _look_around(self) -> None:
        """Learns the names that the server has."""
        for name in ("ListTasks", "ListModels"):
            method = BY_NAME[name]
            metadata = next((bearer(caller.token) for caller in self._target.callers), None)
            data = await self._channels[0].unary_unary(method.path)(b"", timeout=PATIENCE, metadata=metadata)
            response = method.read(data)
            if name == "ListTasks":
                names = [task.name for task in response.tasks]
                self.facts.tasks = [*self._rng.sample(names, min(40, len(names))), "handwritten_digits", "fuzz_digits"]
            else:
                self.facts.models = [model.name for model in response.models]

    async def _call_on(self, share: Any) -> None:
        while share() < 1 and self._target.alive:
            self.report.requests += 1
            channel = self._rng.choice(self._channels)
            if self._rng.random() < 0.005:
                await self._call_nowhere(channel)
                continue
            request = self._draw()
            began = time.monotonic()
            answer = await self.answer(request, channel, self._rng.randint(0, _MOST_MESSAGES) or 1)
            self._note(request, answer, time.monotonic() - began)

    def _draw(self) -> Request:
        rng, method = self._rng, self._grammar.draw_method()
        count = rng.choice((0, 1, 1, 2, 5)) if method.takes_many else 1
        follows = method.gives_many or method.takes_many
        timeout = rng.choice((1e-6, 0.001, 0.01, 0.1)) if rng.random() < 0.02 else None
        metadata = self._metadata() if rng.random() < 0.1 else ()
        role = None
        if self._target.callers:
            role, metadata = self._identify(metadata)
        messages = tuple(self._grammar.draw(method) for _ in range(count))
        return Request(method, messages, metadata, timeout, gives_up=follows, role=role)

    def _identify(self, metadata: Metadata) -> tuple[Role, Metadata]:
        """Somebody's role, and ``metadata`` with what shows who it is: of a caller with a token, or of nobody."""
        rng = self._rng
        others = tuple(item for item in metadata if item[0] != "authorization")
        valid = [caller for caller in self._target.callers if caller.role is not Role.NONE]
        if rng.random() >= _STRANGERS:
            caller = rng.choice(valid)
            return caller.role, (*others, *bearer(caller.token))
        token = rng.choice(valid).token
        wrong = (token[:-1], f"{token}x", token.swapcase(), f"{token} {token}", "y" * 2_000)
        odd = ("", " ", "Bearer", "Basic eDp5", token, f"Token {token}")
        shown: Metadata = rng.choice(
            (
                (),
                *(bearer(caller.token) for caller in self._target.callers if caller.role is Role.NONE),
                *(bearer(word) for word in wrong),
                (*bearer(token), *bearer(token)),
                *((("authorization", word),) for word in odd),
            )
        )
        return Role.NONE, (*others, *shown)

    def _metadata(self) -> Metadata:
        rng = self._rng
        text = ("", " ", "x" * 64, "x" * 65, "x" * 3_000, "x" * 20_000, "a b", "../..", "%00", '"', "~" * 100)
        choices: tuple[tuple[str, str | bytes], ...] = (
            ("x-request-id", rng.choice(text)),
            ("x-request-id", "another"),
            ("authorization", rng.choice(("", "Bearer", "Bearer x", "Basic eDp5", f"Bearer {'y' * 2_000}"))),
            ("fuzz-bin", bytes(rng.randint(0, 255) for _ in range(rng.choice((0, 1, 50, 2_000))))),
            ("grpc-status-details-bin", b"\xff"),
            ("x-forwarded-for", "127.0.0.1"),
            (rng.choice(("a", "_", "x.y", "-", "user-agent")), rng.choice(text)),
        )
        return tuple(rng.sample(choices, rng.randint(1, 3)))

    async def _call_nowhere(self, channel: Any) -> None:
        path = self._rng.choice(UNKNOWN_METHODS)
        call = channel.unary_unary(path)(b"\xff", timeout=PATIENCE)
        code = await call.code()
        self.report.codes.setdefault("(no such method)", Counter())[code.name] += 1
        if code is not grpc.StatusCode.UNIMPLEMENTED:
            self._complain(f"{code.name} for the method {path}, which there is not")

    def _learn(self, request: Request, data: bytes) -> None:
        try:
            self.facts.learn(request.method.read(data))
        except DecodeError:
            self._complain(f"{request.method.name} answered with what is no {request.method.response.name}")

    def _note(self, request: Request, answer: Answer, seconds: float) -> None:
        if answer.details == _CLIENTS_OWN and not answer.trailers:
            self.report.codes.setdefault("(of the client library)", Counter())[answer.code.name] += 1
            return
        self.report.codes.setdefault(request.method.path, Counter())[answer.code.name] += 1
        if not request.gives_up:
            self.report.slowest = sorted(
                [*self.report.slowest, (seconds, request.method.name, answer.code.name)], reverse=True
            )[:_SLOWEST]
        for problem in self._target.rules.problems(request, answer):
            self._complain(problem, request)

    def _complain(self, problem: str, request: Request | None = None) -> None:
        if error_id := re.search(r"internal error ([0-9a-f]{12})", problem):
            problem = problem.replace(error_id[1], self._target.explain(error_id[1]))
        kind = "".join(letter for letter in problem[:160] if not letter.isdigit())
        self.report.problems[problem[:400]] += 1
        if request is None or kind in self._seen or len(self.report.kept) >= _MOST_KEPT:
            return
        self._seen.add(kind)
        self.report.kept.append(str(keep(request, self._target.caller)))

    async def _connect_raw(self, share: Any) -> None:
        """Speaks to the port what is no gRPC, or no HTTP/2, or breaks off."""
        host, _, port = self._target.address.rpartition(":")
        while share() < 1 and self._target.alive:
            rng = self._rng
            noise = bytes(rng.randint(0, 255) for _ in range(rng.choice((0, 1, 9, 100, 2_000))))
            frame = (
                len(noise).to_bytes(3)
                + bytes([rng.randint(0, 12), rng.randint(0, 255)])
                + rng.randint(0, 9).to_bytes(4)
            )
            start = rng.choice(
                (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", _PREFACE, _PREFACE + bytes(3) + b"\4" + bytes(5))
            )
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(start + frame + noise)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1_000), 0.05)
                writer.close()
            self.report.raw_connections += 1
            await asyncio.sleep(0.1)

    async def _weigh(self, share: Any) -> None:
        """Notes the server's memory at each quarter."""
        for name, at in (("quarter", 0.25), ("half", 0.5), ("three_quarters", 0.75)):
            while share() < at and self._target.alive:  # noqa: ASYNC110 - others' progress
                await asyncio.sleep(0.05)
            if self._target.alive:
                self.report.rss_mib[name] = self._target.rss_mib
