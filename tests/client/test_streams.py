"""When a broken stream is tried again, with a clock of the test's own."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from lmms_eval_grpc.client import ServerUnavailable
from lmms_eval_grpc.client.streams import Reconnection
from tests.client.scripted_server import details, retry_info


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def broken(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, trailers: Any = ()) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), "text")


def reconnection(clock: Clock, **bounds: Any) -> Reconnection:
    bounds.setdefault("give_up_after", None)
    return Reconnection("watching", address="here:1", clock=clock, jitter=lambda low, high: high, **bounds)


def test_delays_double_up_to_ten_seconds_and_start_anew_after_a_message() -> None:
    waiting = reconnection(Clock())
    assert [waiting.delay_after(broken()) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    for _ in range(100):
        assert waiting.delay_after(None) == 10.0
    waiting.succeeded()
    assert waiting.delay_after(broken()) == 0.2


def test_delays_are_jittered_by_up_to_half() -> None:
    waiting = Reconnection("watching", address="here:1", give_up_after=None)
    delays = {waiting.delay_after(broken()) for _ in range(50) if waiting.succeeded() is None}
    assert len(delays) > 10
    assert all(0.1 <= delay <= 0.2 for delay in delays)


def test_the_servers_advice_is_a_lower_bound_within_reason() -> None:
    waiting = reconnection(Clock())
    assert waiting.delay_after(broken(trailers=details("NOT_ACCEPTING", retry_info(2.5)))) == 2.5
    assert waiting.delay_after(broken(trailers=details("NOT_ACCEPTING", retry_info(1e6)))) == 60.0


def test_giving_up_counts_from_the_first_failure_since_a_message() -> None:
    clock = Clock()
    waiting = reconnection(clock, give_up_after=100)
    clock.now += 10_000  # a long silent time of a slow reader is not the server's fault
    waiting.delay_after(broken())
    clock.now += 99
    waiting.delay_after(broken())
    waiting.succeeded()
    clock.now += 99
    waiting.delay_after(broken())
    clock.now += 101
    with pytest.raises(ServerUnavailable, match=r"watching: nothing heard from the server at here:1 for 100 s"):
        waiting.delay_after(broken())


def test_the_deadline_ends_it_and_cuts_the_last_delay() -> None:
    clock = Clock()
    waiting = reconnection(clock, timeout=5)
    assert waiting.time_left() == 5
    assert waiting.time_left(at_most=3) == 3
    clock.now += 4.9
    assert waiting.delay_after(broken()) == pytest.approx(0.1)
    clock.now += 0.1
    assert waiting.time_left() == 0.001
    with pytest.raises(TimeoutError, match="watching took longer than 5 s"):
        waiting.delay_after(broken())


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DATA_LOSS,
    ],
)
def test_what_will_not_pass_is_not_tried_again(code: grpc.StatusCode) -> None:
    with pytest.raises(Exception, match="text"):
        reconnection(Clock()).delay_after(broken(code))
