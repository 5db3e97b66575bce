"""A template that hangs when its server is killed notices nothing; the next server ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from lmms_eval_grpc.executors.template_process import TemplateProcess
from lmms_eval_grpc.worker import processes
from tests.executors.conftest import is_alive
from tests.faults.life import TEMPLATE, Life

PATIENCE = 120.0


async def test_a_template_that_hung_when_its_server_died_is_killed_at_the_next_start(tmp_path: Path) -> None:
    life = Life(tmp_path, {}, ["--devices", "cpu", "--no-use-template"])
    life.begin()
    try:
        async with asyncio.timeout(PATIENCE):
            while not life.named(TEMPLATE):  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.02)
            (template,) = life.named(TEMPLATE)
            template.suspend()
            assert life.process is not None
            life.process.kill()
            while is_alive(template.pid):  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.02)
            while not life.named(TEMPLATE):  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.02)
        await life.end()
        assert life.everything() == []
    finally:
        life.kill_all()


async def test_a_template_that_hangs_at_its_imports_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_eval_grpc.executors.template_process.IMPORT_TIMEOUT", 2.0)
    template = TemplateProcess(preload=True)  # it imports for longer than it takes to stop it
    template.start()
    try:
        async with asyncio.timeout(PATIENCE):
            while (first := template.pid) is None:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.001)
            os.kill(first, signal.SIGSTOP)
            while template.pid in (None, first):  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.01)
            while is_alive(first):  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.01)
        assert "has not finished its imports in 2 s" in template.trouble
    finally:
        await template.stop()


async def test_what_belongs_to_a_server_that_lives_or_to_another_namespace_is_left_alone() -> None:
    mine = processes.server_marker()
    namespace, pid, ticks = mine.split(".")
    assert int(pid) == os.getpid()
    marks = {
        "living": mine,
        "dead": f"{namespace}.{pid}.{int(ticks) - 1}",
        "elsewhere": f"{int(namespace) + 1}.{pid}.{int(ticks) - 1}",
        "garbled": "nonsense",
    }
    started = {
        name: await asyncio.create_subprocess_exec("sleep", "600", env={processes.SERVER_MARKER: mark})
        for name, mark in marks.items()
    }
    try:
        assert await asyncio.to_thread(processes.end_orphans, 10.0) == []
        async with asyncio.timeout(PATIENCE):
            assert await started["dead"].wait() == -9
        assert [name for name, process in started.items() if process.returncode is None] == [
            "living",
            "elsewhere",
            "garbled",
        ]
    finally:
        for process in started.values():
            if process.returncode is None:
                process.kill()
                await process.wait()
