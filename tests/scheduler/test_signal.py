"""A wake-up call that costs what its waiters cost, and no more."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from lmms_eval_grpc.scheduler import signal as signals
from lmms_eval_grpc.scheduler.signal import Alarm, Busy, Signal, Turns
from tests.scheduler.doubles import PATIENCE


async def test_everybody_who_waits_is_woken_and_who_comes_later_is_not() -> None:
    signal = Signal()
    waiting = [asyncio.create_task(signal.wait(PATIENCE)) for _ in range(10)]
    await asyncio.sleep(0)
    signal.notify()
    late = asyncio.create_task(signal.wait(0.02))
    assert await asyncio.gather(*waiting) == [True] * 10
    assert await late is False


async def test_one_that_gives_up_leaves_the_others_waiting() -> None:
    signal = Signal()
    patient = asyncio.create_task(signal.wait(None))
    impatient = asyncio.create_task(signal.wait(0.01))
    cancelled = asyncio.create_task(signal.wait(None))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await impatient is False
    assert not patient.done()
    signal.notify()
    assert await patient is True
    assert cancelled.cancelled()
    assert not signal._waiters


async def test_one_alarm_ends_any_of_many_waits() -> None:
    signal, alarm = Signal(), Alarm()
    for _ in range(3):
        waiting = asyncio.create_task(signal.wait(PATIENCE, alarm))
        await asyncio.sleep(0)
        signal.notify()
        assert await waiting is True
    # Sooner than those before it would have, though the timer of the first is still under way.
    assert await signal.wait(0.01, alarm) is False
    # Not when the one before it would have.
    began = time.monotonic()
    waiting = asyncio.create_task(signal.wait(0.01, alarm))
    await asyncio.sleep(0)
    signal.notify()
    assert await waiting is True
    assert await signal.wait(0.05, alarm) is False
    assert time.monotonic() - began > 0.049
    waiting = asyncio.create_task(signal.wait(None, alarm))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    signal.notify()
    assert await waiting is True
    assert alarm._timer is None


async def cost(waiters: int) -> float:
    """Processor time in which so many wait in vain."""
    signal = Signal()
    began = time.process_time()
    await asyncio.gather(*(signal.wait(0.05) for _ in range(waiters)))
    return time.process_time() - began


async def test_many_that_wait_in_vain_cost_no_more_each_than_few() -> None:
    few = min([await cost(1000) for _ in range(5)])
    many = min([await cost(16_000) for _ in range(2)])
    # Sixteen times as much, if it were not for chance; were each searched for among the others, 256 times.
    assert many < 80 * few


async def test_many_are_woken_in_groups_between_which_others_have_their_turn() -> None:
    signal = Signal()
    woken: list[int] = []

    async def wait(number: int) -> None:
        assert await signal.wait(None)
        woken.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(1000)]
    await asyncio.sleep(0)
    signal.notify()
    seen = []
    while len(woken) < 1000:
        await asyncio.sleep(0)
        seen.append(len(woken))
    assert len(seen) > 20
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) < 100
    assert woken == list(range(1000))
    await asyncio.gather(*waiting)


async def test_who_is_yet_to_be_woken_may_give_up_and_a_second_call_wakes_who_came_since() -> None:
    signal = Signal()
    first = [asyncio.create_task(signal.wait(None)) for _ in range(100)]
    await asyncio.sleep(0)
    signal.notify()
    second = [asyncio.create_task(signal.wait(PATIENCE)) for _ in range(100)]
    await asyncio.sleep(0)
    first[-1].cancel()
    signal.notify()
    assert await asyncio.gather(*first[:-1], *second) == [True] * 199
    assert first[-1].cancelled()
    late = asyncio.create_task(signal.wait(None))
    await asyncio.sleep(0)
    signal.notify()
    assert await late is True


async def step() -> None:
    """Lets the event loop do all that is ready."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_go_on_than_may_be_busy_until_some_are_done() -> None:
    turns = Turns(at_once=2, most_busy=4)
    begun = [turns.begin() for _ in range(3)]
    waiting = [asyncio.create_task(turns.take()) for _ in range(3)]
    await step()
    # One has its turn at first, which does not make it busy: so the others follow.
    assert all(task.done() for task in waiting)
    begun.append(turns.begin())
    late = [asyncio.create_task(turns.take()) for _ in range(3)]
    await step()
    assert not any(task.done() for task in late)
    turns.end(begun.pop())
    await step()
    # They go on together, not one by one.
    assert not any(task.done() for task in late)
    turns.end(begun.pop())
    await step()
    assert all(task.done() for task in late)


async def test_fewer_are_busy_after_others_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_COURTESY", PATIENCE)
    turns = Turns(at_once=4, most_busy=8)
    begun = [turns.begin() for _ in range(2)]
    turns.give_way()
    late = [asyncio.create_task(turns.take()) for _ in range(8)]
    await step()
    assert not any(task.done() for task in late)
    turns.end(begun.pop())
    turns.end(begun.pop())
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*late)
    monkeypatch.setattr(signals, "_COURTESY", 0.0)
    begun = [turns.begin() for _ in range(7)]
    late = [asyncio.create_task(turns.take())]
    await step()
    assert late[0].done()


async def test_those_who_are_slow_are_not_waited_for() -> None:
    turns = Turns(at_once=2, most_busy=4)
    stalled = [turns.begin() for _ in range(10)]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(turns.take() for _ in range(50)))
    # Their ends, long after, let nobody more go on than may.
    for begun in stalled:
        turns.end(begun)
    busy = [turns.begin() for _ in range(4)]
    late = asyncio.create_task(turns.take())
    await step()
    assert not late.done()
    turns.end(busy.pop())
    async with asyncio.timeout(PATIENCE):
        await late


async def test_who_comes_when_all_are_done_has_its_turn_at_once() -> None:
    turns = Turns(at_once=2, most_busy=2)

    async def go_on() -> Busy:
        await turns.take()
        return turns.begin()

    begun = await asyncio.gather(go_on(), go_on())
    # As many are busy as may be, and nobody waits.
    await step()
    for one in begun:
        turns.end(one)
    late = asyncio.create_task(turns.take())
    await step()
    assert late.done()


async def test_those_who_are_slow_do_not_make_the_others_go_on_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SLOW", 0.05)
    turns = Turns(at_once=4, most_busy=4)
    for _ in range(3):
        turns.begin()  # and never an end
    busy = most = 0

    async def go_on() -> None:
        nonlocal busy, most
        while most < 2:
            await turns.take()
            begun = turns.begin()
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0)
            busy -= 1
            turns.end(begun)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(go_on() for _ in range(20)))


async def test_of_one_known_to_be_slow_nobody_takes_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SLOW", PATIENCE)
    turns = Turns(at_once=2, most_busy=2)
    begun = [turns.begin(counts=False) for _ in range(12)]
    waiting = [asyncio.create_task(turns.take()) for _ in range(2)]
    await step()
    assert all(task.done() for task in waiting)
    assert turns.end(begun.pop()) is False  # It has become quick again.
    monkeypatch.setattr(signals, "_SLOW", 0.0)
    assert turns.end(begun.pop()) is True
