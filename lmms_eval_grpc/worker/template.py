"""The template process: imports the heavy libraries once, then makes workers by forking itself.

Started as ``python -m lmms_eval_grpc.worker.template --socket-fd N`` with one end of a Unix socket pair. It never
initialises CUDA, never talks gRPC and has one thread, so that a fork of it is sound. With ``--no-preload`` it imports
nothing and its workers do it themselves: the same worker, seconds slower.

When the server's end of the socket closes, however the server came to its end, it kills everything that it started.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from lmms_eval_grpc.engine import prctl
from lmms_eval_grpc.engine.models.preload import PRELOAD_ENVIRONMENT, preload
from lmms_eval_grpc.worker import huge_pages, processes
from lmms_eval_grpc.worker import main as worker_main
from lmms_eval_grpc.worker.frames import FrameError, FrameReader, write_frame
from lmms_eval_grpc.worker.surroundings import redirect_output
from lmms_eval_grpc.worker.v1.worker_pb2 import (
    ForkWorker,
    TemplateCommand,
    TemplateEvent,
    TemplateReady,
    WorkerExited,
    WorkerForked,
)

ENVIRONMENT = {
    **PRELOAD_ENVIRONMENT,
    # Progress bars are unreadable in a log file.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
"""Set before the first import, for the template and all its workers."""

_EXIT_BROKEN = 70


class Template:
    """Serves the server's requests for workers until it goes away."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(sock)
        self._workers: dict[int, int] = {}
        self._wake, self._waker = socket.socketpair()

    def serve(self, import_seconds: float) -> None:
        """Returns when the server is gone."""
        self._watch_children()
        try:
            self._serve(import_seconds)
        finally:
            # The sockets go with this object, before the last children do.
            signal.set_wakeup_fd(-1)

    def _serve(self, import_seconds: float) -> None:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count, not paths
        self._send(TemplateEvent(ready=TemplateReady(import_seconds=import_seconds, thread_count=threads)))
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        pages, more = huge_pages.gather(), True
        while True:
            # Pages that a worker shares would not be moved but copied.
            gathers = more and not self._workers
            ready = {descriptor for descriptor, _ in poll.poll(0 if gathers else None)}
            if not ready:
                more = next(pages, False)
            if self._wake.fileno() in ready:
                self._wake.recv(4096)
                self._reap()
            if self._sock.fileno() in ready:
                if not self._reader.receive():
                    return
                while command := self._reader.take(TemplateCommand):
                    self._fork(command.fork_worker)

    def _watch_children(self) -> None:
        for end in (self._wake, self._waker):
            end.setblocking(False)
        # Without a Python handler the signal would be dropped and nothing written to the wakeup socket.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                worker_id = self._workers.pop(pid, None)
                if worker_id is not None:
                    exit_status = os.waitstatus_to_exitcode(status)
                    self._send(TemplateEvent(exited=WorkerExited(worker_id=worker_id, exit_status=exit_status)))

    def _fork(self, request: ForkWorker) -> None:
        forked = WorkerForked(worker_id=request.worker_id)
        try:
            descriptor = self._reader.take_descriptor()
            try:
                forked.pid = self._fork_worker(request, descriptor)
            finally:
                os.close(descriptor)
            self._workers[forked.pid] = request.worker_id
        except (OSError, FrameError) as error:
            forked.error = f"the worker could not be started: {error}"
            forked.error_number = getattr(error, "errno", None) or 0
        self._send(TemplateEvent(forked=forked))

    def _fork_worker(self, request: ForkWorker, descriptor: int) -> int:
        log = os.open(request.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            template_pid = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._become_worker(request, descriptor, log, template_pid)
            return pid
        finally:
            os.close(log)

    def _become_worker(self, request: ForkWorker, descriptor: int, log: int, template_pid: int) -> NoReturn:
        status = _EXIT_BROKEN
        try:
            os.setsid()
            prctl.die_with_parent()
            if os.getppid() != template_pid:
                os._exit(_EXIT_BROKEN)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            for end in (self._sock, self._wake, self._waker):
                end.close()
            _detach(log)
            os.chdir(request.working_dir)
            os.environ.update(request.environment)
            prepare_worker()
            worker_main.run(socket.socket(fileno=descriptor))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _send(self, event: TemplateEvent) -> None:
        # A server that is gone is noticed by the main loop, which then cleans up.
        with contextlib.suppress(OSError):
            write_frame(self._sock, event)


def prepare_worker() -> None:
    """Undoes, in a forked worker, what only the template needs, and gives it its own name and random numbers."""
    gc.enable()
    faulthandler.enable()
    # Asked by a server that takes this worker to hang: its log then ends with where.
    faulthandler.register(processes.TELL_WHERE, chain=False)
    prctl.set_process_name("eval-worker")
    # The worker has a folder of its own for temporary files; this remembers the template's.
    tempfile.tempdir = None
    if numpy := sys.modules.get("numpy"):
        # Python reseeds its own generator after a fork, numpy does not: all workers would draw the same numbers.
        numpy.random.seed()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a template; see the module's description."""
    parser = argparse.ArgumentParser(prog="lmms_eval_grpc.worker.template")
    parser.add_argument("--socket-fd", type=int, required=True, help="descriptor of this end of the socket pair")
    parser.add_argument("--no-preload", action="store_true", help="leave the imports to the workers")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    # Its end is announced by the socket, not by a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    prctl.set_process_name("eval-template")
    prctl.adopt_orphans()
    os.environ.update(ENVIRONMENT)
    sock = socket.socket(fileno=options.socket_fd)
    if not options.no_preload:
        preload()
    # Objects that live for ever: no collection in a worker shall touch, and so copy, their pages.
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        Template(sock).serve(time.monotonic() - started)
    finally:
        processes.kill_tree(os.getpid())
        _reap_all()


def _reap_all() -> None:
    # Here every child is ours or was left to us; where nobody reaps orphans they would stay in the process table.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _detach(log: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    redirect_output(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
