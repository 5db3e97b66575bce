"""The real command in a process of its own, against a real server whose workers do as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lmms_eval_grpc import EvalClient
from lmms_eval_grpc.jobs.events import WorkerReport
from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.app import EvaluationServer
from tests.scheduler.doubles import ScriptedExecution, ScriptedExecutor

PATIENCE = 60.0
TASK = "handwritten_digits"
Value = TypeVar("Value")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what would change the command's manners."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMMS_EVAL_GRPC_")}
    return {**kept, "HF_HUB_OFFLINE": "1", "TERM": "xterm", "COLUMNS": "160", **changes}


def with_own_caches(folder: Path) -> dict[str, str]:
    """``environment`` for an evaluation whose caches are below ``folder``."""
    return environment(
        XDG_CACHE_HOME=str(folder / "cache"),
        LMMS_EVAL_DATASETS_CACHE=str(folder / "datasets"),
        OMP_NUM_THREADS="1",
        LMMS_EVAL_GRPC_LMMS_EVAL="none",
    )


@pytest.fixture
def manners(tmp_path: Path) -> dict[str, str]:
    """The command's environment, with caches of its own."""
    return with_own_caches(tmp_path)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lmms_eval_grpc", *words]


def run_command(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command, to its end, with its output in pipes."""
    return subprocess.run(
        command(*words), env=env or environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@contextlib.contextmanager
def serving(words: list[str], folder: Path) -> Iterator[str]:
    """The address of the server that the command line ``words`` starts."""
    address_file = folder / "address"
    more = ("--port", "0", "--state-dir", folder / "state", "--address-file", address_file, "--no-use-template")
    process = subprocess.Popen(
        command(*words, *map(str, more)),
        env=environment(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not address_file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield address_file.read_text().strip()
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


class Rig:
    """A server in a thread of its own, and the command line pointed at it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint-100"
        self.checkpoint.mkdir()
        (self.checkpoint / "config.json").write_text("{}")
        usual = {"port": 0, "state_dir": folder / "state", "shutdown_grace": 1.0, "allow_task_files": True}
        self._settings = {**usual, **settings}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.executor: ScriptedExecutor
        self.server: EvaluationServer

    def start(self) -> None:
        self._thread.start()
        self.wait_for(self._start())

    async def _start(self) -> None:
        self.executor = ScriptedExecutor()
        self.server = EvaluationServer(ServerArgs(**self._settings), executor=self.executor)
        await self.server.start()

    def stop(self) -> None:
        self.wait_for(self.server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def wait_for(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Runs ``work`` on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    @property
    def address(self) -> str:
        return self.server.address

    def client(self) -> EvalClient:
        return EvalClient(self.address)

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The command against this server."""
        return run_command(*words, env=self.environment(**env))

    def environment(self, **changes: str) -> dict[str, str]:
        return environment(LMMS_EVAL_GRPC_ADDRESS=self.address, **changes)

    def document(self, *words: str) -> Any:
        """What the command prints with --json, as one document."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def records(self, *words: str) -> list[Any]:
        """What the command prints with --json, line by line."""
        return [json.loads(line) for line in self.run(*words, "--json").stdout.splitlines()]

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """The command, while it runs."""
        return subprocess.Popen(
            command(*words), env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def submit_words(self, *more: str) -> tuple[str, ...]:
        """A submission that the server accepts."""
        return (
            "submit",
            "--model",
            "idefics3",
            "--tasks",
            TASK,
            "--model_args",
            f"pretrained={self.checkpoint}",
            *more,
        )

    def submit(self, **options: Any) -> str:
        """A new job, without the command line; returns its id."""
        arguments = {"model": "idefics3", "tasks": [TASK], "model_args": {"pretrained": str(self.checkpoint)}}
        with self.client() as client:
            return str(client.evaluate(**{**arguments, **options})["job_id"])

    def execution(self, job_id: str) -> ScriptedExecution:
        """The worker of the job, once it runs."""
        return self.wait_for(self.executor.execution(job_id))

    def tell(self, job_id: str, *reports: WorkerReport) -> None:
        """Has the job's worker report something."""
        execution = self.execution(job_id)
        self._loop.call_soon_threadsafe(execution.tell, *reports)

    def finish(self, job_id: str, *reports: WorkerReport) -> None:
        """Has the job's worker report its last word, and waits until the job has ended."""
        self.tell(job_id, *reports)
        with self.client() as client:
            for _ in client.watch_job(job_id):
                pass

    def write(self, job_id: str, name: str, text: str) -> None:
        """Puts a file into the job's folder, as its worker would."""
        folder = self.server.state_dir / "jobs" / job_id
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)


NewRig = Callable[..., Rig]


@pytest.fixture
def new_rig(tmp_path: Path) -> Iterator[NewRig]:
    """Starts servers with settings of their own."""
    rigs: list[Rig] = []

    def start(**settings: Any) -> Rig:
        folder = tmp_path / f"server-{len(rigs)}"
        folder.mkdir()
        rig = Rig(folder, **settings)
        rig.start()
        rigs.append(rig)
        return rig

    yield start
    for rig in rigs:
        rig.stop()


@pytest.fixture
def rig(new_rig: NewRig) -> Rig:
    return new_rig()


def read_until(process: subprocess.Popen[str], found: Callable[[str], bool]) -> list[str]:
    """Lines of the running command's output, up to the first that is what the test waits for."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if found(lines[-1]):
            return lines
    raise AssertionError(f"the command ended without it; it printed {lines}")


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C; returns what the command still printed."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE)


class Terminal:
    """A terminal of 160 columns with a command on it."""

    def __init__(self, words: Sequence[str], env: dict[str, str]) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.process = subprocess.Popen(words, env=env, stdin=follower, stdout=follower, stderr=follower)
        os.close(follower)
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._leader, 65536)
            except OSError:  # what Linux says when the last writer is gone
                return
            if not chunk:
                return
            self._seen += chunk

    @property
    def text(self) -> str:
        """All that has appeared so far."""
        return bytes(self._seen).decode("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Waits until ``text`` has appeared."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self._leader, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        os.close(self._leader)


def run_on_terminal(
    words: Sequence[str],
    env: dict[str, str],
    act: Callable[[Terminal], None] | None = None,
    patience: float = PATIENCE,
) -> tuple[int, str]:
    """Runs ``words`` on a terminal; returns the exit status and all that appeared. ``act`` is called beside it."""
    terminal = Terminal(words, env)
    try:
        if act is not None:
            act(terminal)
        status = terminal.process.wait(patience)
    finally:
        terminal.close()
    return status, terminal.text
