"""What the example program of every client does, whatever its language."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from lmms_eval_grpc.v1 import job_pb2
from tests.clients.conftest import HeldServer
from tests.end_to_end.conftest import wait_until

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "clients"
STATE = re.compile(r"^\[(\d+)\] (QUEUED|RUNNING|CANCELLING|COMPLETED|FAILED|CANCELLED)$", re.MULTILINE)


def build(*commands: list[str], folder: Path) -> None:
    """Runs the commands that a README shows, in ``folder``."""
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


class Program:
    """A running example; what it prints is read while it runs."""

    def __init__(self, command: list[str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HEARTBEAT_SECONDS": "1"},
        )
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers = [Thread(target=self._read, args=(name,), daemon=True) for name in self._lines]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        self._lines[name].extend(iter(getattr(self.process, name).readline, ""))

    @property
    def printed(self) -> str:
        return "".join(self._lines["stdout"])

    @property
    def complaints(self) -> str:
        return "".join(self._lines["stderr"])

    def states(self) -> list[tuple[int, str]]:
        """Sequence and name of every state change it printed."""
        return [(int(sequence), state) for sequence, state in STATE.findall(self.printed)]

    def wait_running(self) -> str:
        """Waits until its job runs; the job's id."""
        wait_until(
            lambda: "RUNNING" in dict(self.states()).values() or self.process.poll() is not None,
            240,
            lambda: f"it does not run: {self.printed} {self.complaints}",
        )
        (job_id,) = re.findall(r"^job (\w+)$", self.printed, re.MULTILINE)
        return str(job_id)

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=240)
        for reader in self._readers:
            reader.join()
        return code


def told_states(server: HeldServer, job_id: str) -> list[tuple[int, str]]:
    """What the job's log of events says, read by the Python client."""
    with server.client() as client:
        changes = [event for event in client.watch_job(job_id) if event.HasField("state_change")]
    names = [job_pb2.JobState.Name(event.state_change.state).removeprefix("JOB_STATE_") for event in changes]
    return [(event.sequence, name) for event, name in zip(changes, names, strict=True)]


class ClientBehaviour:
    """Inherit, beside a fixture ``program`` that builds the client and returns the example's command."""

    @pytest.fixture
    def held(self, server: HeldServer) -> Iterator[Path]:
        server.hold.touch()
        yield server.hold
        server.hold.unlink(missing_ok=True)

    def test_a_checkpoint_is_submitted_watched_and_scored(
        self, program: list[str], any_server: HeldServer, tiny_checkpoint: Path
    ) -> None:
        server = any_server
        if server.running:
            server.kill()
        run = Program(program, server.address, str(tiny_checkpoint), "held_digits")
        server.refuse_one_connection()
        server.start()
        assert run.wait() == 0, run.complaints
        assert [state for _, state in run.states()] == ["QUEUED", "RUNNING", "COMPLETED"]
        (job_id,) = re.findall(r"^job (\w+)$", run.printed, re.MULTILINE)
        with server.client() as client:
            job = client.get(job_id)
        assert job.request_id
        (score, nothing) = job.evaluation_result.task_results[0].metrics
        interval = score.confidence_interval
        assert (
            f"held_digits exact_match,none = {score.value:.4f} [{interval.lower:.4f}, {interval.upper:.4f}] (95 %)\n"
            in run.printed
        )
        assert nothing.name == "nothing"
        assert re.search(r"^held_digits nothing,none = undefined", run.printed, re.MULTILINE)

    def test_a_watch_outlives_the_server(
        self, program: list[str], server: HeldServer, held: Path, tiny_checkpoint: Path
    ) -> None:
        run = Program(program, server.address, str(tiny_checkpoint), "held_digits")
        job_id = run.wait_running()
        server.kill()
        held.unlink()
        server.start()
        assert run.wait() == 0, run.complaints
        assert run.states() == told_states(server, job_id)
        assert [state for _, state in run.states()] == ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "COMPLETED"]

    def test_a_silent_server_is_asked_again(
        self, program: list[str], server: HeldServer, held: Path, tiny_checkpoint: Path
    ) -> None:
        run = Program(program, server.address, str(tiny_checkpoint), "held_digits")
        job_id = run.wait_running()
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: "trying again" in run.complaints, 120, lambda: f"it sits there: {run.printed}")
        finally:
            server.process.send_signal(signal.SIGCONT)
        held.unlink()
        assert run.wait() == 0, run.complaints
        assert run.states() == told_states(server, job_id)

    def test_a_bad_request_is_explained(self, program: list[str], server: HeldServer, tmp_path: Path) -> None:
        run = Program(program, server.address, str(tmp_path / "no-checkpoint"), "held_digit")
        assert run.wait() == 2
        assert re.search(r"^spec\.tasks\[0\]: .*held_digits", run.complaints, re.MULTILINE)
        assert re.search(r"^spec\.model_args.*no-checkpoint", run.complaints, re.MULTILINE)

    def test_a_failed_job_is_a_failure(
        self, program: list[str], server: HeldServer, tmp_path: Path, tiny_checkpoint: Path
    ) -> None:
        empty = tmp_path / "checkpoint"
        empty.mkdir()
        (empty / "config.json").write_text('{"model_type": "idefics3"}')
        run = Program(program, server.address, str(empty), "held_digits")
        assert run.wait() == 1, run.complaints
        assert run.states()[-1][1] == "FAILED"
        assert re.search(r"^[A-Z_]+: .", run.complaints, re.MULTILINE)
