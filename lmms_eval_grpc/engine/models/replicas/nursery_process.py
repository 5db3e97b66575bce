"""The process that replicas are forked from: it has one thread and never touches a device, so that a fork is sound.

Either itself a fork of a process in that state, or a program (``python -m …nursery_process --socket-fd N``) that pays
for the imports once, for all replicas. When the other end of its socket closes, it kills its replicas and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from lmms_eval_grpc.engine import prctl
from lmms_eval_grpc.engine.models.preload import preload
from lmms_eval_grpc.engine.models.replicas import child

MAX_MESSAGE = 64 * 1024
"""Bytes of a command or an answer: JSON, a packet each."""
_EXIT_BROKEN = 70


def serve(sock: socket.socket) -> NoReturn:
    """Obeys until the other end of ``sock`` closes."""
    # Ctrl-C is for the process that evaluates, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl.set_process_name("eval-nursery")
    for stream in (sys.stdout, sys.stderr):  # now: once a file behind them is a pipe, they refuse
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    children: set[int] = set()
    while True:
        packet, descriptors, _, _ = socket.recv_fds(sock, MAX_MESSAGE, 2)
        if not packet:
            break
        command = json.loads(packet)
        try:
            if command["do"] == "fork":
                pid = _fork(sock, command, descriptors)
                children.add(pid)
                answer: dict[str, Any] = {"pid": pid}
            elif command["do"] == "reap":
                ended = _reap(command["pids"])
                children.difference_update(ended)
                answer = {"ended": [[pid, status] for pid, status in ended.items()]}
            else:
                for pid in children.intersection(command["pids"]):
                    os.kill(pid, signal.SIGKILL)
                answer = {}
        except OSError as error:
            answer = {"error": str(error)}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        sock.send(json.dumps(answer).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _fork(sock: socket.socket, command: dict[str, Any], descriptors: Sequence[int]) -> int:
    connection, output = descriptors
    nursery = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = _EXIT_BROKEN
        try:
            prctl.die_with_parent()
            if os.getppid() != nursery:
                os._exit(_EXIT_BROKEN)
            sock.close()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            faulthandler.enable()
            prctl.set_process_name(f"eval-replica-{command['number']}")
            os.environ.update(command["environment"])
            child.run(Connection(connection))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)  # the interpreter's own way out takes torch seconds
    return pid


def _reap(pids: Sequence[int]) -> dict[int, int]:
    """Exit statuses, minus the signal where one ended the process, of those that have ended. Waits for none."""
    found = {}
    for pid in pids:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found[pid] = os.waitstatus_to_exitcode(status)
    return found


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a nursery as a program; see the module's description."""
    parser = argparse.ArgumentParser(prog="lmms_eval_grpc.engine.models.replicas.nursery_process")
    parser.add_argument("--socket-fd", type=int, required=True, help="descriptor of this end of the socket pair")
    parser.add_argument("--no-preload", action="store_true", help="leave the imports to the replicas")
    options = parser.parse_args(arguments)
    if not options.no_preload:
        preload()
        if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - a count, not paths
            # A plug-in or a library started a thread, so that forks are unsafe: slower then, but sound.
            os.set_inheritable(options.socket_fd, True)
            module = "lmms_eval_grpc.engine.models.replicas.nursery_process"
            given = ["--socket-fd", str(options.socket_fd), "--no-preload"]
            os.execv(sys.executable, [sys.executable, "-m", module, *given])
    serve(socket.socket(fileno=options.socket_fd))


if __name__ == "__main__":
    main()
