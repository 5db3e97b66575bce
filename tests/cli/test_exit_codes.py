"""Each exit code, provoked for real."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.main import main
from tests.cli.conftest import NewRig, Rig, command, environment, run_command

NEEDS_A_JOB = (("watch",), ("job",), ("cancel",), ("samples",), ("logs",))
NEEDS_A_SERVER = (
    *(("jobs",), ("queue",), ("tasks",), ("models",), ("info",)),
    *(("pause",), ("resume",), ("drain",), ("gc",)),
)


@pytest.fixture
def closed_port() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("words", NEEDS_A_JOB)
def test_an_unknown_job_is_3(rig: Rig, words: tuple[str, ...]) -> None:
    done = rig.run(*words, "no-such-job")
    assert done.returncode == ExitCode.NOT_FOUND
    assert done.stdout == ""
    assert "no-such-job" in done.stderr


def test_an_unreachable_server_is_4_for_every_command(closed_port: str) -> None:
    commands = [
        *NEEDS_A_SERVER,
        *((*words, "some-job") for words in NEEDS_A_JOB),
        ("queue", "--follow"),
        ("logs", "some-job", "--follow"),
        ("submit", "--model", "m", "--tasks", "t"),
    ]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda words: run_command(*words, "-a", closed_port), commands))
    for words, done in zip(commands, results, strict=True):
        assert done.returncode == ExitCode.UNREACHABLE, words
        assert closed_port in done.stderr
        assert "lmms-eval-grpc serve" in done.stderr
        assert "Traceback" not in done.stderr


def test_as_json_an_unreachable_server_is_a_document(closed_port: str) -> None:
    done = run_command("--address", closed_port, "--json", "info")
    assert done.returncode == ExitCode.UNREACHABLE
    assert json.loads(done.stderr)["error"]["code"] == "UNAVAILABLE"


@pytest.mark.parametrize("address", ["localhost", "ftp://localhost:1", "localhost:notaport"])
def test_an_address_that_is_none_is_2(address: str) -> None:
    done = run_command("info", "-a", address)
    assert done.returncode == ExitCode.USAGE
    assert address in done.stderr


def test_a_full_queue_is_6(new_rig: NewRig) -> None:
    rig = new_rig(max_queued_jobs=1)
    rig.execution(rig.submit())
    rig.submit()
    done = rig.run(*rig.submit_words())
    assert done.returncode == ExitCode.REFUSED
    assert done.stdout == ""
    assert "queue is full" in done.stderr
    assert "try again in" in done.stderr
    document = json.loads(rig.run(*rig.submit_words("--json")).stderr)
    assert document["error"]["reason"] == "QUEUE_FULL"
    assert document["error"]["retry_after_seconds"] > 0


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_jobs_per_principal": 1}, "TOO_MANY_JOBS"),
        ({"max_submissions_per_minute": 1}, "TOO_MANY_SUBMISSIONS"),
    ],
)
def test_a_limit_of_the_caller_is_6(new_rig: NewRig, limits: dict[str, int], reason: str) -> None:
    rig = new_rig(**limits)
    rig.submit()
    done = rig.run(*rig.submit_words("--json"))
    assert done.returncode == ExitCode.REFUSED
    error = json.loads(done.stderr)["error"]
    assert error["reason"] == reason
    assert error["retry_after_seconds"] > 0


def test_a_draining_server_is_6(rig: Rig) -> None:
    rig.execution(rig.submit())
    rig.wait_for(rig.server._scheduler.drain())
    done = rig.run(*rig.submit_words())
    assert done.returncode == ExitCode.REFUSED
    assert "not accepting jobs" in rig.run("queue").stdout


@pytest.fixture
def foreign_server() -> Iterator[str]:
    """A gRPC server that does not know the service."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


def test_a_server_that_cannot_do_it_is_7(foreign_server: str) -> None:
    done = run_command("info", "-a", foreign_server)
    assert done.returncode == ExitCode.SERVER_ERROR
    assert done.stderr.startswith("error: ")


def test_a_bug_is_70_with_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lmms_eval_grpc.cli.commands import version

    def fail(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(version, "run", fail)
    assert main(["version"]) == ExitCode.BUG
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("version",), ("tasks",), ("info", "--json")])
def test_a_reader_that_went_away_is_141_and_quiet(rig: Rig, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command(*words), env=rig.environment(), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (ExitCode.BROKEN_PIPE, b"")


def test_the_address_may_stand_before_or_after_the_command(rig: Rig) -> None:
    for words in (("-a", rig.address, "info"), ("info", "--address", rig.address)):
        assert run_command(*words, env=environment(LMMS_EVAL_GRPC_ADDRESS="localhost:1")).returncode == ExitCode.OK
