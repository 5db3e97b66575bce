"""``top``: driven by Textual's pilot against a real server, and once on a real terminal."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from textual.widgets import DataTable, Static

from lmms_eval_grpc.cli.board import WAITING_SHOWN
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.following import JobView
from lmms_eval_grpc.cli.top import Top, describe_queue, draw_bar
from lmms_eval_grpc.client import dictionaries
from lmms_eval_grpc.jobs.events import Completed, Failed
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.v1 import job_pb2
from lmms_eval_grpc.v1.evaluation_service_pb2 import QueueSnapshot
from tests.cli.conftest import PATIENCE, TASK, NewRig, Rig, Terminal, command, run_command, run_on_terminal
from tests.client.scripted_server import Break, ScriptedServer
from tests.jobs.examples import progress, result
from tests.support.tls import make_authority, server_settings

ERROR = JobError(JobErrorCode.WORKER_DIED, "WORKER_KILLED", "killed by [red]SIGKILL[/]", {})


def rows(app: Top, table: str) -> list[list[str]]:
    found = app.query_one(f"#{table}", DataTable)
    return [[str(cell) for cell in found.get_row_at(place)] for place in range(found.row_count)]


def text(app: Top, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).render())


async def until(condition: Callable[[], object], app: Top) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, [text(app, "summary"), *(rows(app, t) for t in ("devices", "queue"))]
        await asyncio.sleep(0.05)


async def test_it_shows_what_runs_what_waits_and_what_came_of_it(rig: Rig) -> None:
    first = await asyncio.to_thread(rig.submit)
    waiting = await asyncio.to_thread(rig.submit, labels={"run": "[b]sft-7"}, priority=3)
    app = Top(rig.address)
    async with app.run_test(size=(160, 40)) as pilot:
        await until(lambda: rows(app, "queue"), app)
        assert "accepting jobs; 1 running, 1 of 1000 waiting" in text(app, "summary")
        (device,) = rows(app, "devices")
        assert device[1:3] == [first, f"idefics3: {TASK}"]
        (queued,) = rows(app, "queue")
        # A label is no markup.
        assert queued[:5] == ["0", waiting, f"idefics3: {TASK}", "3", "run=[b]sft-7"]
        rig.tell(first, progress(30, samples_per_second=8.0))
        await until(lambda: "30/100" in rows(app, "devices")[0][4], app)
        assert "8 samples/s" in rows(app, "devices")[0][5]
        await asyncio.to_thread(rig.finish, first, Completed(result(TASK)))
        await until(lambda: rows(app, "devices")[0][1] == waiting and rows(app, "recent"), app)
        (ended,) = rows(app, "recent")
        assert ended[0] == first
        assert ended[2] == "completed"
        assert "exact_match" in ended[3]
        assert rows(app, "queue") == []
        await asyncio.to_thread(rig.finish, waiting, Failed(ERROR))
        await until(lambda: len(rows(app, "recent")) == 2, app)
        assert rows(app, "recent")[0][:4] == [waiting, f"idefics3: {TASK}", "failed", "killed by [red]SIGKILL[/]"]
        await until(lambda: rows(app, "devices")[0][1] == "free", app)
        await pilot.press("q")
    assert app.return_code == 0


async def test_a_long_queue_is_cut_and_a_pause_is_told(rig: Rig) -> None:
    def fill() -> None:
        with rig.client() as client:
            client.pause_queue("new driver")
            for _ in range(WAITING_SHOWN + 3):
                client.evaluate("idefics3", [TASK], {"pretrained": str(rig.checkpoint)})

    await asyncio.to_thread(fill)
    app = Top(rig.address)
    async with app.run_test(size=(160, 40)):
        await until(lambda: len(rows(app, "queue")) == WAITING_SHOWN + 1, app)
        assert rows(app, "queue")[-1][0] == "and 3 more"
        assert text(app, "summary").startswith("paused: new driver; 0 running, 53 of 1000 waiting")


async def test_a_lost_connection_is_told_until_it_is_back(rig: Rig) -> None:
    app = Top(rig.address)
    async with app.run_test(size=(160, 40)):
        await until(lambda: rows(app, "devices"), app)
        await asyncio.to_thread(rig.wait_for, rig.server.stop(0))
        await until(lambda: "trying again" in text(app, "connection"), app)
        # Not over the screen, where a line on the standard error stream would land.
        assert not logging.getLogger("lmms_eval_grpc.client").propagate
        logging.getLogger("lmms_eval_grpc.client").info("watching the queue: connected again")
        assert text(app, "connection") == ""
    assert logging.getLogger("lmms_eval_grpc.client").propagate


def test_on_a_terminal(rig: Rig) -> None:
    job_id = rig.submit()

    def act(terminal: Terminal) -> None:
        terminal.wait_for(job_id)
        rig.tell(job_id, progress(30))
        terminal.wait_for("30/100")
        rig.finish(job_id, Completed(result(TASK)))
        terminal.wait_for("completed")
        terminal.type("q")

    status, _ = run_on_terminal(command("top"), rig.environment(), act)
    assert status == ExitCode.OK


def test_it_takes_the_flags_for_tls(new_rig: NewRig, tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "tls")
    alice = authority.issue_client("alice")
    rig = new_rig(**server_settings(authority, mutual=True))
    flags = ("--ca", authority.own.certificate, "--cert", alice.certificate, "--key", alice.key)

    def act(terminal: Terminal) -> None:
        terminal.wait_for("accepting jobs")
        terminal.type("q")

    status, _ = run_on_terminal(command("top", *map(str, flags)), rig.environment(), act)
    assert status == ExitCode.OK


def test_a_watch_that_is_refused_for_good_ends_it_with_the_reason(rig: Rig) -> None:
    server = ScriptedServer()
    server.servicer.breaks["WatchQueue"] = [Break(grpc.StatusCode.PERMISSION_DENIED, "not for you")]
    try:
        status, shown = run_on_terminal(command("top", "--address", server.address), rig.environment())
    finally:
        server.stop()
    assert status == ExitCode.SERVER_ERROR
    assert "error: not for you" in shown
    assert "Traceback" not in shown


def test_it_says_what_it_needs(rig: Rig) -> None:
    done = rig.run("top")
    assert done.returncode == ExitCode.USAGE
    assert "queue --follow --json" in done.stderr

    status, shown = run_on_terminal(command("top", "--address", "127.0.0.1:1"), rig.environment())
    assert status == ExitCode.UNREACHABLE
    assert "127.0.0.1:1" in shown
    assert run_command("top", "--help").returncode == 0


@pytest.mark.parametrize(("done", "total", "bar"), [(0, 0, ""), (0, 7, "─" * 20 + " 0/7"), (9, 7, "━" * 20 + " 9/7")])
def test_bars(done: int, total: int, bar: str) -> None:
    told = job_pb2.Progress(samples_done=done, samples_total=total)
    assert draw_bar(JobView("j", progress=told)) == bar
    assert draw_bar(None) == ""


def test_bytes_of_a_merge_are_a_share() -> None:
    assert (
        draw_bar(JobView("j", progress=job_pb2.Progress(bytes_done=5, bytes_total=10))) == "━" * 10 + "─" * 10 + " 50%"
    )


def test_a_draining_server_says_so() -> None:
    queue = dictionaries.queue(QueueSnapshot(draining=True, capacity=9, completed_count=1))
    assert describe_queue(queue).startswith("draining; 0 running, 0 of 9 waiting; ended: 1 completed")
