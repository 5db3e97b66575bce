"""A real server for the clients of other languages, and a task whose jobs stand still for as long as a test wants."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmms_eval_grpc.benchmarks
from tests.end_to_end.conftest import ServerProcess

_TASK = """
task: held_digits
include: {digits}
process_docs: !function held.few
process_results: !function held.process_results
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
  - metric: nothing
    aggregation: !function held.not_a_number
    higher_is_better: true
"""
_FUNCTIONS = """
import time
from pathlib import Path

HOLD = Path({hold!r})


def few(dataset):
    return dataset.select(range(8))


def process_results(doc, results):
    while HOLD.exists():
        time.sleep(0.02)
    return {{"exact_match": float(results[0] == str(doc["label"])), "nothing": 1.0}}


def not_a_number(items):
    return float("nan")
"""


class HeldServer(ServerProcess):
    """A server on one port for all its lives, with the task ``held_digits``.

    That task has eight digits, which are scored once the file ``hold`` is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.hold = folder / "hold"
        tasks = folder / "tasks"
        tasks.mkdir()
        digits = Path(lmms_eval_grpc.benchmarks.__path__[0]) / "handwritten_digits" / "handwritten_digits.yaml"
        (tasks / "held_digits.yaml").write_text(_TASK.format(digits=digits))
        (tasks / "held.py").write_text(_FUNCTIONS.format(hold=str(self.hold)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        super().__init__(folder, "--include-path", str(tasks), "--port", str(port))
        self.address = f"127.0.0.1:{port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def refuse_one_connection(self) -> None:
        """Stands in for the server that is not there yet: waits for a client, and hangs up."""
        host, port = self.address.split(":")
        with socket.create_server((host, int(port))) as listener:
            listener.settimeout(120)
            listener.accept()[0].close()


@pytest.fixture(scope="module")
def any_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    """One that may be up or down."""
    server = HeldServer(tmp_path_factory.mktemp("server"))
    yield server
    if server.running:
        server.stop()


@pytest.fixture
def server(any_server: HeldServer) -> HeldServer:
    if not any_server.running:
        any_server.start()
    return any_server
