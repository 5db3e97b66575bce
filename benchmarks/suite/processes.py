"""Running programs and telling what they cost."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Neither system can reach a hub here, and both get one thread of torch: comparisons hold whatever the machine has."""


class Failed(Exception):
    """A measured program failed: its last lines."""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables for a measured program, whose caches lie in ``folder``. Neither our own package nor settings of
    whoever runs the benchmarks are put in its way."""
    base = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "HF_DATASETS_CACHE") and not name.startswith("LMMS_EVAL_GRPC_")
    }
    caches = {"HF_HOME": str(folder / "hugging-face"), "XDG_CACHE_HOME": str(folder / "caches")}
    return base | OFFLINE | caches | more


def run(command: Sequence[str | Path], folder: Path, variables: Mapping[str, str]) -> tuple[float, float]:
    """Runs a program to its end: wall seconds, and CPU seconds of it and of the processes that it waited for.

    Raises:
        Failed: its exit status is not 0.
    """
    log = folder / "program.log"
    with log.open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=output, cwd=folder, env=dict(variables)
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"exit status {process.returncode} of {command[:4]}:\n{tail(log)}")
    return wall, usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def on_core(index: int) -> Iterator[None]:
    """Has programs that are started meanwhile run on one core, and their children too: of those that may be used, that
    of ``index``, counted as in a list."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tail(log: Path, size: int = 2000) -> str:
    return log.read_text(errors="replace")[-size:]


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_cpu(pid: int) -> float:
    """CPU seconds of the process, of all that run below it, and of those that have ended and were waited for."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def peak_memory(process: psutil.Process) -> int:
    """Bytes that a process has had in memory at most, as the kernel counts, since that count was set back; 0 once it
    has ended."""
    try:
        status = Path("/proc", str(process.pid), "status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def name_of(process: psutil.Process) -> str:
    """As the process calls itself; empty once it has ended."""
    try:
        return Path("/proc", str(process.pid), "comm").read_text().strip()
    except OSError:
        return ""


def stop(process: subprocess.Popen[bytes], patience: float = 30.0) -> None:
    """Ends a program and all below it."""
    below = tree(process.pid)
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
