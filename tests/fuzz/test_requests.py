"""Generated requests, over all methods of all services: no answer may break a rule."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus_files import Kept, kept_requests
from tests.fuzz.driver import Driver
from tests.fuzz.grammar import Facts, Grammar
from tests.fuzz.methods import METHODS, Method
from tests.fuzz.rules import Answer, Request
from tests.fuzz.target import Target

MOST_GROWTH_MIB = 48.0
"""By which a server may grow after a quarter of a run: what it keeps in fixed numbers is not all there by then."""


def ask(target: Target, request: Request, most: int = 3) -> Answer:
    """Sends one request over a connection of its own."""
    method = request.method
    opened: Any = grpc.insecure_channel(target.address)
    with opened as channel:
        if method.takes_many:
            call = channel.stream_stream(method.path)(iter(request.messages), timeout=30)
        elif method.gives_many:
            call = channel.unary_stream(method.path)(request.messages[0], timeout=30)
        else:
            try:
                _, call = channel.unary_unary(method.path).with_call(request.messages[0], timeout=30)
            except grpc.RpcError as error:
                call = error
        try:
            if method.takes_many or method.gives_many:
                for number, _ in enumerate(call, start=1):
                    if number == most or method.name in ("Watch", "WatchQueue"):
                        call.cancel()
                        break
        except grpc.RpcError:
            pass
        trailers = tuple((key, value) for key, value in call.trailing_metadata() or ())
        return Answer(call.code(), call.details() or "", trailers)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_generated_request_gets_an_answer_that_breaks_a_rule(
    target: Target, fuzz_seed: int, fuzz_seconds: float, record_property: Any
) -> None:
    print(f"fuzz seed {fuzz_seed}", flush=True)
    report = asyncio.run(Driver(target, fuzz_seed).run(seconds=fuzz_seconds)).plain()
    figures = json.dumps(report)
    print(figures, flush=True)
    record_property("fuzz", figures)
    again = f"run it again with --fuzz-seed {fuzz_seed} --fuzz-seconds {fuzz_seconds:g}"
    assert not report["problems"], f"{json.dumps(report['problems'], indent=1)}\n{report['kept']}\n{again}"
    assert not report["logged_tracebacks"], f"{target.log.read_text()[-6000:]}\n{again}"
    # It reached what it is about: every method answered some of its requests well.
    answered = {path for path, codes in report["codes_by_method"].items() if {"OK", "CANCELLED"} & codes.keys()}
    assert answered >= {method.path for method in METHODS} or report["requests"] < 10_000
    rss = report["server_rss_mib"]
    assert rss["end"] - rss["quarter"] < MOST_GROWTH_MIB, rss


@pytest.mark.parametrize("kept", [pytest.param(kept, id=kept.name) for kept in kept_requests()])
def test_requests_of_the_corpus_get_answers_that_break_no_rule(target: Target, kept: Kept) -> None:
    request = kept.request(target.caller)
    request = Request(request.method, request.messages, gives_up=request.method.gives_many)
    assert target.rules.problems(request, ask(target, request)) == []


def test_every_method_has_a_good_request_in_the_corpus() -> None:
    assert {kept.path for kept in kept_requests()} == {method.path for method in METHODS}


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(method=st.sampled_from(METHODS), rng=st.randoms(use_true_random=False))
def test_requests_that_hypothesis_makes_break_no_rule(target: Target, method: Method, rng: random.Random) -> None:
    """Far fewer than the driver sends, but what is found comes in its smallest form."""
    facts = Facts(target.caller, tasks=["handwritten_digits"], models=["idefics3"])
    message = Grammar(rng, facts).draw(method)
    request = Request(method, (message,), gives_up=method.gives_many or method.takes_many)
    assert target.rules.problems(request, ask(target, request)) == []


def test_the_server_lives_and_has_logged_no_traceback(target: Target) -> None:
    assert target.alive
    assert target.logged_tracebacks() == 0
