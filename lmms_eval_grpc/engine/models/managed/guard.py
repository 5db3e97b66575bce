"""Runs a server for as long as the process that asked for it lives; a program by itself, of the standard library.

``python guard.py GRACE COMMAND…`` leads a process group. When its standard input closes, its parent is another one, or
it gets SIGTERM, it sends SIGTERM to the group, waits up to GRACE seconds for the server's end and then sends SIGKILL,
itself included. When the server ends first, it says so in the log and ends the same way. So nothing of the server is
left, however the other process came to its end.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PARENT_CHECK_MS = 1000


def main() -> NoReturn:
    """See the module's description."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    parent = os.getppid()
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked_to_stop = False

    def stop(*_: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        # Should the guard itself be killed, the kernel kills the server.
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(wake, select.POLLIN)
    while server.poll() is None and not asked_to_stop and os.getppid() == parent:
        for descriptor, _ in poll.poll(_PARENT_CHECK_MS):
            if descriptor == wake:
                os.read(wake, 4096)
            elif not os.read(0, 4096):
                asked_to_stop = True
    if server.poll() is None:
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    elif not asked_to_stop:
        sys.stderr.write(f"the server ended by itself, status {server.returncode}\n")
        sys.stderr.flush()
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("unreachable: the signal is for this process too")


if __name__ == "__main__":
    main()
