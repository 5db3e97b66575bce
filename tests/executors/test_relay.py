"""What a helper process writes is in the server's log."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from lmms_eval_grpc.executors.relay import Relay, _following


async def run(relay: Relay, code: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=relay.writable, stderr=relay.writable
    )
    relay.follow(process)
    await asyncio.gather(*_following)
    assert process.returncode == 0


def descriptors() -> set[str]:
    """The open files of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_each_line_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    code = "import sys; print('one\\n\\ntwo', flush=True); sys.stderr.write('thr' + chr(233) + 'e')"
    await run(Relay("template"), code)
    assert [record.getMessage() for record in caplog.records if record.name.endswith("relay")] == [
        "template: one",
        "template: two",
        "template: thrée",
    ]


async def test_a_line_without_an_end_is_told_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run(Relay("template"), "print('x' * 100_000, end='')")
    told = [record.getMessage().removeprefix("template: ") for record in caplog.records if "xx" in record.getMessage()]
    assert len(told) > 1
    assert "".join(told) == "x" * 100_000


async def test_nothing_of_it_is_left_although_a_grandchild_holds_the_pipe() -> None:
    before = descriptors()
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(2)\n    os._exit(0)"
    await run(Relay("template"), code)
    assert descriptors() <= before
