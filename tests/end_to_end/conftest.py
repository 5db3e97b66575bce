"""A real server process, real workers, a real checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lmms_eval_grpc import Credentials, EvalClient

SLOW_TASK = """
task: slow_digits
include: {digits}
process_results: !function slow.process_results
"""
SLOW_FUNCTIONS = """
import time


def process_results(doc, results):
    time.sleep(0.1)
    return {"exact_match": float(results[0] == str(doc["label"]))}
"""


class ServerProcess:
    """``lmms-eval-grpc serve`` on a free loopback port, with a state directory of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.flags = flags
        self.address = ""
        self.credentials: Credentials | None = None
        """Of clients that are made here."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def start(self) -> ServerProcess:
        address_file = self.folder / "address"
        address_file.unlink(missing_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lmms_eval_grpc", "serve", "--port", "0"),
                    *("--state-dir", str(self.state_dir), "--address-file", str(address_file), *self.flags),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
        wait_until(address_file.exists, 60, lambda: f"the server did not start: {self.log()}")
        self.address = address_file.read_text().strip()
        with self.client() as client:
            client.wait_for_ready(timeout=60)
        return self

    def client(self) -> EvalClient:
        return EvalClient(self.address, credentials=self.credentials)

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def wait_warm(self) -> None:
        """Waits for the template's imports, so that what follows measures or tests the warm path."""
        with self.client() as client:
            wait_until(lambda: client.server_info().template_warm, 120, lambda: f"no warm template: {self.log()}")

    def descendants(self) -> list[psutil.Process]:
        """Every process below the server: the template, the workers and what they started."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """``kill -9``, as the out-of-memory killer would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def wait_until(true: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Polls until ``true()``; generous, because the machine may be slow."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(complaint())
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path).start()
    yield started
    started.stop()


@pytest.fixture
def slow_task(tmp_path: Path) -> Path:
    """The digits task with a scorer that takes a while: a job long enough to be interrupted between two batches."""
    import lmms_eval_grpc.benchmarks

    digits = Path(lmms_eval_grpc.benchmarks.__path__[0]) / "handwritten_digits" / "handwritten_digits.yaml"
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "slow.py").write_text(SLOW_FUNCTIONS)
    (folder / "slow_digits.yaml").write_text(SLOW_TASK.format(digits=digits))
    return folder
