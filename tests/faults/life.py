"""A server that is started again whenever it ends, as an init system does, and the processes below it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "LMMS_EVAL_GRPC_FAULT_RUN"
"""Environment variable by which everything that descends from a run's servers can be found, whoever its parent is."""
TEMPLATE, WORKER = "eval-template", "eval-worker"


@dataclass
class Life:
    """One state folder, one port, and one server after another on them."""

    folder: Path
    environment: dict[str, str]
    flags: Sequence[str] = ()
    prefix: Sequence[str] = ()
    """Words before the server's command."""
    port: int = field(default_factory=lambda: _free_port())
    starts: int = 0
    process: asyncio.subprocess.Process | None = None
    _supervisor: asyncio.Task[None] | None = None
    _ending: bool = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def mark(self) -> str:
        return f"{os.getpid()}-{self.folder}"

    def begin(self) -> None:
        """Starts the first server, and from now on another whenever one has ended."""
        self._supervisor = asyncio.create_task(self._supervise())

    async def end(self) -> None:
        """Stops the last server in order."""
        self._ending = True
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
        if self._supervisor is not None:
            async with asyncio.timeout(120):
                await self._supervisor

    def kill_all(self) -> None:
        """Leaves nothing, also after a failure."""
        if self._supervisor is not None:
            self._supervisor.cancel()
        for process in self.everything():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def named(self, name: str) -> list[psutil.Process]:
        """The processes of that name below the present server, oldest first."""
        if self.process is None or self.process.returncode is not None:
            return []
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [process for process in children if _name(process) == name]

    def everything(self) -> list[psutil.Process]:
        """Every live process of this run, orphans too."""
        return [process for process in psutil.process_iter() if _carries(process, self.mark)]

    async def _supervise(self) -> None:
        while not self._ending:
            with (self.folder / "server.log").open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *(*self.prefix, sys.executable, "-m", "lmms_eval_grpc", "serve", "--port", str(self.port)),
                    *("--state-dir", str(self.state_dir), *self.flags),
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.environment, "HF_HUB_OFFLINE": "1", MARK: self.mark},
                )
            self.starts += 1
            await self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _name(process: psutil.Process) -> str:
    try:
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.NoSuchProcess:
        return ""


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
