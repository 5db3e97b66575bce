"""The template process by itself, spoken to in its own frames."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lmms_eval_grpc.worker.frames import FrameReader, encode_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import ForkWorker, TemplateCommand, TemplateEvent, WorkerEvent
from tests.worker.test_processes import PATIENCE, is_alive, wait_until


class _Template:
    """A real template process that imports nothing in advance, and the server's end of its socket."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(PATIENCE)
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lmms_eval_grpc.worker.template"),
                    *("--socket-fd", str(theirs.fileno()), "--no-preload"),
                ],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.reader = FrameReader(self.sock)
        self.ready = self.next_event().ready

    def next_event(self) -> TemplateEvent:
        event = self.reader.read(TemplateEvent)
        assert event is not None
        return event

    def ask(self, worker_id: int, log_path: Path, **more: str) -> socket.socket:
        """Asks for a worker and returns the server's end of the worker's socket."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        request = ForkWorker(
            worker_id=worker_id, log_path=str(log_path), environment=more, working_dir=str(log_path.parent)
        )
        with theirs:
            socket.send_fds(self.sock, [encode_frame(TemplateCommand(fork_worker=request))], [theirs.fileno()])
        return ours

    def fork(self, worker_id: int, log_path: Path, **more: str) -> tuple[int, socket.socket]:
        """A worker that waits for its job: its pid and socket."""
        worker_socket = self.ask(worker_id, log_path, **more)
        forked = self.next_event().forked
        assert (forked.worker_id, forked.error) == (worker_id, "")
        started = FrameReader(worker_socket).read(WorkerEvent)
        assert started is not None
        assert started.started.pid == forked.pid
        return forked.pid, worker_socket


@pytest.fixture
def template() -> Iterator[_Template]:
    made = _Template()
    yield made
    made.sock.close()
    made.process.wait(timeout=PATIENCE)


def test_a_template_has_one_thread_and_says_so(template: _Template) -> None:
    assert template.ready.thread_count == 1
    assert psutil.Process(template.process.pid).num_threads() == 1


def test_a_worker_leads_a_session_of_its_own_with_its_environment_folder_and_log(
    template: _Template, tmp_path: Path
) -> None:
    log_path = tmp_path / "worker.log"
    log_path.write_text("first attempt\n")
    pid, worker_socket = template.fork(7, log_path, COLOUR="rød")
    with worker_socket:
        worker = psutil.Process(pid)
        assert os.getpgid(pid) == os.getsid(pid) == pid
        assert Path(worker.cwd()) == tmp_path
        opened = {int(entry.name): str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        assert opened[0] == os.devnull
        assert opened[1] == opened[2] == str(log_path)
        # One that held its template's socket would keep the template from noticing its server's end.
        assert len([target for target in opened.values() if target.startswith("socket:")]) == 1
    exited = template.next_event().exited
    assert exited.worker_id == 7
    assert log_path.read_text().startswith("first attempt\n")


def test_a_worker_whose_server_goes_away_ends_with_its_group(template: _Template, tmp_path: Path) -> None:
    pid, worker_socket = template.fork(1, tmp_path / "worker.log")
    worker_socket.close()
    exited = template.next_event().exited
    assert (exited.worker_id, exited.exit_status) == (1, -signal.SIGKILL)
    assert not is_alive(pid)
    assert "the server is gone" in (tmp_path / "worker.log").read_text()


def test_exit_statuses_are_reported_to_the_right_worker(template: _Template, tmp_path: Path) -> None:
    workers = {number: template.fork(number, tmp_path / f"{number}.log") for number in range(5)}
    for number in (3, 0, 4, 1, 2):
        os.kill(workers[number][0], signal.SIGTERM if number % 2 else signal.SIGKILL)
        exited = template.next_event().exited
        assert exited.worker_id == number
        assert exited.exit_status == (-signal.SIGTERM if number % 2 else -signal.SIGKILL)
    for _, worker_socket in workers.values():
        worker_socket.close()


@pytest.mark.parametrize("trouble", ["no such folder/worker.log", "."])
def test_a_worker_that_cannot_be_started_is_an_answer_and_not_an_end(
    template: _Template, tmp_path: Path, trouble: str
) -> None:
    template.ask(1, tmp_path / trouble).close()
    forked = template.next_event().forked
    assert (forked.worker_id, forked.pid) == (1, 0)
    assert "could not be started" in forked.error
    _, worker_socket = template.fork(2, tmp_path / "worker.log")
    worker_socket.close()
    assert template.next_event().exited.worker_id == 2


@pytest.mark.parametrize("more", [0, 1], ids=["the socket", "the log"])
def test_a_template_without_room_for_a_descriptor_says_so_and_goes_on(
    template: _Template, tmp_path: Path, more: int
) -> None:
    pid = template.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opened = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    lowest_free = next(number for number in range(len(opened) + 1) if number not in opened)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free + more, limits[1]))
    template.ask(1, tmp_path / "worker.log").close()
    forked = template.next_event().forked
    assert (forked.worker_id, forked.pid, forked.error_number) == (1, 0, errno.EMFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    # What was lost with the first request is not made good with the second one's.
    _, worker_socket = template.fork(2, tmp_path / "worker.log")
    worker_socket.close()
    assert template.next_event().exited.worker_id == 2


@pytest.mark.parametrize("end", ["socket", "SIGTERM"])
def test_when_the_template_ends_nothing_of_its_workers_is_left(template: _Template, tmp_path: Path, end: str) -> None:
    workers = [template.fork(number, tmp_path / f"{number}.log") for number in range(2)]
    os.kill(workers[0][0], signal.SIGSTOP)
    if end == "socket":
        template.sock.close()
    else:
        template.process.send_signal(signal.SIGTERM)
    template.process.wait(timeout=PATIENCE)
    wait_until(lambda: not any(is_alive(pid) for pid, _ in workers))
    for _, worker_socket in workers:
        worker_socket.close()


def test_a_template_killed_outright_takes_its_workers_with_it(template: _Template, tmp_path: Path) -> None:
    pid, worker_socket = template.fork(1, tmp_path / "worker.log")
    os.kill(pid, signal.SIGSTOP)
    template.process.kill()
    template.process.wait(timeout=PATIENCE)
    wait_until(lambda: not is_alive(pid))
    worker_socket.close()


def test_a_terminals_interrupt_does_not_end_a_template(template: _Template, tmp_path: Path) -> None:
    template.process.send_signal(signal.SIGINT)
    _, worker_socket = template.fork(1, tmp_path / "worker.log")
    worker_socket.close()
    assert template.next_event().exited.worker_id == 1
