"""The server that is fuzzed: its process, its folders, and what is measured of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from lmms_eval_grpc.server.principals import Role
from tests.fuzz.rules import Rules
from tests.fuzz.server_process import MAX_REQUEST_BYTES
from tests.support import audit
from tests.support.access import give_token

REPOSITORY = Path(__file__).resolve().parents[2]
_DIGITS = """
task: fuzz_digits
dataset_path: json
dataset_kwargs: {data_files: {test: nothing.json}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A few lines that stand for 8 to the power of 9 items."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a token."""

    name: str
    role: Role
    """NONE: the token is not valid any more."""
    token: str


class Target:
    """A server over folders of its own in ``folder``. A context manager: it is killed at the end if need be.

    With ``guarded`` it asks who calls, and has bounds and limits.
    """

    def __init__(self, folder: Path, *, guarded: bool = False) -> None:
        self.state = folder / "state-of-the-server"
        self.caller = folder / "caller"
        self.home = folder / "home-of-the-server"
        self.include = folder / "tasks-of-the-server"
        self.log = folder / "server.log"
        self._address_file = folder / "address"
        self._figures = folder / "figures.json"
        for made in (self.caller, self.home, self.include):
            made.mkdir(parents=True)
        _fill_caller(self.caller)
        (self.include / "broken_task.yaml").write_text("task: broken_task\nno_such_key: 1\n")
        (self.include / "broken_yaml.yaml").write_text("task: [broken_yaml\n")
        (self.include / "broken_function.yaml").write_text("task: broken_function\ndoc_to_text: !function gone.away\n")
        (self.include / "broken_include.yaml").write_text("task: broken_include\ninclude: not_there.yaml\n")
        self.address = ""
        self._access = folder / "access"
        self.callers = _make_callers(self._access) if guarded else ()
        """Who can call, on a server that asks."""
        paths = (self.state, self.home, self.include, REPOSITORY, Path.home(), Path(sys.prefix))
        secrets = [*map(str, paths), *(caller.token for caller in self.callers)]
        self.rules = Rules(secrets, largest_request=MAX_REQUEST_BYTES)

    def __enter__(self) -> Self:
        words = [self.state, self._address_file, self._figures, self.include]
        if self.callers:
            words += [self._access, self.caller]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.server_process", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={**os.environ, "HOME": str(self.home), "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
            )
        deadline = time.monotonic() + 120
        while not self._address_file.exists():
            if not self.alive or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        self.address = self._address_file.read_text().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def rss_mib(self) -> float:
        """Resident memory of the server."""
        resident: int = psutil.Process(self._process.pid).memory_info().rss
        return round(resident / 2**20, 1)

    def figures(self) -> dict[str, Any]:
        """What the server has measured of itself."""
        try:
            figures: dict[str, Any] = json.loads(self._figures.read_text())
        except FileNotFoundError:
            return {}
        return figures

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        return audit.lines_of(self._access.with_name("audit.jsonl"))

    def leaked_tokens(self) -> list[str]:
        """Whose tokens are in the server's log or its audit log."""
        written = self.log.read_text(errors="replace")
        if self.callers:
            written += self._access.with_name("audit.jsonl").read_text()
        return [caller.name for caller in self.callers if caller.token in written]

    def explain(self, error_id: str) -> str:
        """The exception that the log has under an internal error's id, and where it was raised."""
        _, found, rest = self.log.read_text(errors="replace").partition(error_id)
        lines = rest.split("\nERROR:")[0].split("\nWARNING:")[0].strip().splitlines()
        places = [line.strip() for line in lines if line.lstrip().startswith("File ")]
        return f"{lines[-1][:200]} at {' < '.join(places[:-4:-1])}" if found and places else ""

    def logged_tracebacks(self) -> int:
        """Of exceptions that nobody turned into an answer, but for those of grpc itself: now and then it asks its own
        core for what it refuses when a caller goes away at the wrong moment."""
        log = self.log.read_text(errors="replace")
        own = log.count("ERROR:grpc._cython.cygrpc:ExecuteBatchError")
        return log.count("Traceback (most recent call last)") - own


def _make_callers(access: Path) -> tuple[Caller, ...]:
    people = [("root", Role.ADMIN), ("alice", Role.SUBMIT), ("bob", Role.SUBMIT), ("rita", Role.READ)]
    callers = [Caller(name, role, give_token(access, name, role)) for name, role in people]
    return (*callers, Caller("late", Role.NONE, give_token(access, "late", Role.ADMIN, valid_for=-1)))


def _fill_caller(folder: Path) -> None:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    for place in (folder / "sharded", folder / "run" / "checkpoint-10"):
        shards = place / "pytorch_model_fsdp_0"
        shards.mkdir(parents=True)
        (shards / ".metadata").write_bytes(b"")
        (shards / "__0_0.distcp").write_bytes(b"")
        (place / "config.json").write_text(
            '{"model_type": "idefics3", "architectures": ["Idefics3ForConditionalGeneration"]}'
        )
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "digits.yaml").write_text(_DIGITS)
    (tasks / "nothing.json").write_text("[]")
    (tasks / "bomb.yaml").write_text(f"{BOMB}task: bomb\ninclude: *i\n")
    (tasks / "deep.yaml").write_text("task: " + "[" * 3_000)
    (tasks / "odd.yaml").write_text("task: odd\nrepeats: !!int ''\n")
    (tasks / "itself.yaml").write_text("task: &a [*a]\n")
    (folder / "out").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "tasks" / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe")
