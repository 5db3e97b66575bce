"""Short work in threads: results, errors and context variables come through, and work that hangs holds up nobody."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref

import pytest

from lmms_eval_grpc.server import offload
from lmms_eval_grpc.server.offload import Offload
from tests.scheduler.doubles import PATIENCE, until


def threads() -> int:
    return sum(thread.name == "offload" for thread in threading.enumerate())


async def test_results_and_errors_come_back_to_their_callers() -> None:
    work = Offload(8)
    outcomes = await asyncio.gather(*(work.run(divmod, 7, number) for number in range(4)), return_exceptions=True)
    assert isinstance(outcomes[0], ZeroDivisionError)
    assert outcomes[1:] == [(7, 0), (3, 1), (2, 1)]


async def test_it_runs_in_another_thread_with_the_context_of_its_caller() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    def look() -> tuple[str, int]:
        return name.get(), threading.get_ident()

    async def ask(value: str) -> tuple[str, int]:
        name.set(value)
        return await work.run(look)

    work = Offload(8)
    answers = await asyncio.gather(*(asyncio.create_task(ask(value)) for value in ("a", "b", "c")))
    assert [value for value, _ in answers] == ["a", "b", "c"]
    assert threading.get_ident() not in {thread for _, thread in answers}


async def test_work_that_hangs_does_not_hold_up_the_rest() -> None:
    work = Offload(most=3)
    release = threading.Event()
    hanging = [asyncio.create_task(work.run(release.wait, PATIENCE)) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*(work.run(abs, -number) for number in range(20))) == list(range(20))
    assert not any(task.done() for task in hanging)
    release.set()
    assert await asyncio.gather(*hanging) == [True, True]


async def test_a_caller_that_is_cancelled_disturbs_nobody() -> None:
    work = Offload(most=1)
    release = threading.Event()
    waiting = asyncio.create_task(work.run(release.wait, PATIENCE))
    following = asyncio.create_task(work.run(abs, -1))
    await asyncio.sleep(0)
    waiting.cancel()
    release.set()
    assert await following == 1
    assert waiting.cancelled()


async def test_of_many_only_a_few_run_and_who_left_gives_its_thread_up_when_done() -> None:
    work = Offload(most=2)
    release = threading.Event()
    begun: list[int] = []

    def run(number: int) -> int:
        begun.append(number)
        release.wait(PATIENCE)
        return number

    calls = [asyncio.create_task(work.run(run, number)) for number in range(4)]
    await until(lambda: len(begun) == 2)
    calls[0].cancel()  # It has begun: its thread is taken until it is done.
    calls[2].cancel()  # It still waits: it never begins.
    await asyncio.wait([calls[0], calls[2]])
    assert sorted(begun) == [0, 1]
    release.set()
    async with asyncio.timeout(PATIENCE):
        assert await calls[1] == 1
        assert await calls[3] == 3
        assert await work.run(run, 5) == 5
    assert sorted(begun) == [0, 1, 3, 5]


async def test_work_that_nobody_waits_for_keeps_nothing() -> None:
    work = Offload(most=1)
    release = threading.Event()
    hanging = asyncio.create_task(work.run(release.wait, PATIENCE))
    await asyncio.sleep(0)
    request = Request()
    waiting = asyncio.create_task(work.run(id, request))
    await asyncio.sleep(0)
    kept = weakref.ref(request)
    waiting.cancel()
    await asyncio.wait([waiting])
    del request, waiting
    gc.collect()
    assert kept() is None
    release.set()
    assert await hanging


class Request:
    """Something large."""


async def test_threads_end_when_there_is_nothing_to_do_and_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threads()
    monkeypatch.setattr(offload, "_IDLE", 0.01)
    work = Offload(8)
    assert await work.run(abs, -1) == 1
    await until(lambda: threads() <= before)
    assert await work.run(abs, -2) == 2
