"""Which processes belong to a worker, and that all of them and no others are killed."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lmms_eval_grpc.worker import processes
from lmms_eval_grpc.worker.processes import MARKER, WorkerIdentity

PATIENCE = 60.0

FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
other_group = subprocess.Popen(["sleep", "600"], process_group=0)
other_session = subprocess.Popen(["sleep", "600"], start_new_session=True)
grandchild = subprocess.run(
    ["sh", "-c", "setsid sleep 600 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True
)
print(child.pid, other_group.pid, other_session.pid, grandchild.stdout.strip(), flush=True)
time.sleep(600)
"""
"""A process with a child, one in another group, one in another session, and one whose parent has ended as well."""


class _Family:
    def __init__(self, marker: str) -> None:
        self.leader = subprocess.Popen(
            [sys.executable, "-c", FAMILY],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, MARKER: marker},
        )
        assert self.leader.stdout is not None
        self.pids = [self.leader.pid, *map(int, self.leader.stdout.readline().split())]
        identity = processes.identify(self.leader.pid, marker)
        assert identity is not None
        self.identity = identity

    def living(self) -> list[int]:
        return [pid for pid in self.pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def make_family() -> Iterator[Callable[[str], _Family]]:
    made: list[_Family] = []

    def make(marker: str) -> _Family:
        made.append(_Family(marker))
        return made[-1]

    yield make
    for family in made:
        for pid in family.living():
            processes.kill(pid)
        family.leader.wait()


def test_everything_that_a_worker_started_is_killed_and_nothing_else(make_family: Callable[[str], _Family]) -> None:
    ours, others = make_family("job-1.1"), make_family("job-1.2")
    assert [process.pid for process in processes.members(ours.identity)] == sorted(ours.pids)
    assert processes.end_members(ours.identity, PATIENCE) == []
    assert ours.living() == []
    assert others.living() == others.pids
    assert processes.members(ours.identity) == []


def test_what_a_dead_worker_left_is_still_found(make_family: Callable[[str], _Family]) -> None:
    family = make_family("job-2.1")
    family.leader.kill()
    family.leader.wait()
    assert len(family.living()) == 4
    assert processes.end_members(family.identity, PATIENCE) == []
    assert family.living() == []


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_a_process_that_has_the_number_of_a_former_worker_is_left_alone(
    make_family: Callable[[str], _Family], change: dict[str, object]
) -> None:
    family = make_family("job-3.1")
    former = dataclasses.replace(family.identity, marker="job-2.7", **change)  # type: ignore[arg-type]
    assert processes.members(former) == []
    assert processes.end_members(former, PATIENCE) == []
    assert family.living() == family.pids


def test_a_tree_is_killed_below_its_root(make_family: Callable[[str], _Family]) -> None:
    family = make_family("job-4.1")
    processes.kill_tree(family.leader.pid)
    # The orphan among them is nobody's descendant by now.
    assert family.living() == [family.leader.pid, family.pids[-1]]


def test_killing_a_tree_takes_nobodys_exit_status_away(make_family: Callable[[str], _Family]) -> None:
    family = make_family("job-4.2")
    unrelated = subprocess.Popen(["sh", "-c", "exit 3"])
    wait_until(lambda: not is_alive(unrelated.pid))
    processes.kill_tree(family.leader.pid)
    assert unrelated.wait() == 3


def test_a_process_that_does_not_die_is_named_and_not_waited_for_for_ever(
    make_family: Callable[[str], _Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = make_family("job-4.3")
    spared = family.pids[1]
    kill = processes.kill
    # As the kernel does with one that waits for a driver.
    monkeypatch.setattr(processes, "kill", lambda pid: None if pid == spared else kill(pid))
    (left,) = processes.end_members(family.identity, 1.0)
    assert left.pid == spared
    assert family.living() == [spared]


UNREADABLE = """
import os, resource, sys
from lmms_eval_grpc.worker import processes
identity = processes.identify(os.getpid(), "job-4.4")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
for look in (lambda: processes.members(identity), lambda: processes.read_process(os.getpid())):
    try:
        print(look())
    except OSError as error:
        print(error.strerror)
"""


def test_nobody_is_gone_because_the_process_table_cannot_be_read() -> None:
    answer = subprocess.run([sys.executable, "-c", UNREADABLE], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["Too many open files"] * 2


def test_an_identity_survives_its_file(tmp_path: Path) -> None:
    identity = processes.identify(os.getpid(), "job-5.1")
    assert identity is not None
    processes.write_identity(tmp_path, identity)
    assert processes.read_identity(tmp_path) == identity
    (tmp_path / "worker.tmp").write_text("{")  # of a worker that was killed while it wrote
    processes.remove_identity(tmp_path)
    processes.remove_identity(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert processes.read_identity(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "colour": "red"}'])
def test_an_identity_file_that_makes_no_sense_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / processes.IDENTITY_FILE).write_text(text)
    assert processes.read_identity(tmp_path) is None


def test_a_process_that_is_gone_has_no_identity() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert processes.identify(ended.pid, "") is None


def test_a_name_with_brackets_and_blanks_does_not_confuse_the_reader(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    sleeper = subprocess.Popen([str(program), "600"])
    try:
        deadline = time.monotonic() + 30
        while (process := processes.read_process(sleeper.pid)) is None or process.parent != os.getpid():
            assert time.monotonic() < deadline
        assert process.group == os.getpgid(sleeper.pid)
        assert isinstance(processes.identify(sleeper.pid, ""), WorkerIdentity)
    finally:
        sleeper.kill()
        sleeper.wait()
