"""Starting a process of this package that serves the server over a socket pair: the template, the Ray driver."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import lmms_eval_grpc
from lmms_eval_grpc.executors.relay import Relay


async def start_helper(
    module: str, flags: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """The process, which runs ``module`` in a session of its own, and this end of the socket to it, which does not
    block. The module is told its end by ``--socket-fd``. What the process writes becomes lines of this one's log.

    Args:
        module: what ``python -m`` runs.
        flags: more words of its command line.
        environment: variables beside this process's own.

    Raises:
        OSError: the system has no room for it.
    """
    ours, theirs = socket.socketpair()
    relay: Relay | None = None
    try:
        ours.setblocking(False)
        relay = Relay(module.rpartition(".")[2])
        process = await asyncio.create_subprocess_exec(
            # -P: the current folder may hold a "datasets" or a "queue.py", which must not hide the real ones.
            *(sys.executable, "-P", "-m", module, "--socket-fd", str(theirs.fileno()), *flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=relay.writable,
            stderr=relay.writable,
            env=_environment() | dict(environment or {}),
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        if relay is not None:
            relay.close()
        raise
    finally:
        theirs.close()
    relay.follow(process)
    return process, ours


def _environment() -> dict[str, str]:
    """This process's environment, in which this very package is found."""
    environment = dict(os.environ)
    root = Path(lmms_eval_grpc.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH", "")]))
    return environment
