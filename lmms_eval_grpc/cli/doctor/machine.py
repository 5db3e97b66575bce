"""Memory, open files and the clock."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import lmms_eval_grpc
from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup, mebibytes

_LEAST_MEMORY = 4 << 30
_LEAST_SHARED_MEMORY = 256 << 20
_OWN_FILES = 256
"""Descriptors that a server needs beside those of its streams."""
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def check_memory(setup: Setup) -> Iterator[Finding]:
    """Memory of the machine, and what the control group leaves of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = group_limit()
    told = f"{mebibytes(total)} on this machine"
    if limit is not None and limit < total:
        told += f", of which the control group (a container, or systemd) allows {mebibytes(limit)}"
    if min(total, limit or total) < _LEAST_MEMORY:
        yield warning(
            "memory",
            told,
            "a worker with torch alone takes about 1 GiB; give it more memory, or evaluate small models",
        )
    else:
        yield ok("memory", told)


def group_limit(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that this process's control group and those above it allow. None: no bound, or it is not told."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / group.lstrip("/")
        # Inside a container the group may be mounted where the root usually is.
        for place in (folder, *(parent for parent in folder.parents if parent.is_relative_to(root))):
            try:
                limits.append(int((place / name).read_text(encoding="ascii")))
            except (OSError, ValueError):
                continue
    return min(limits, default=None)


def check_shared_memory(setup: Setup) -> Iterator[Finding]:
    """/dev/shm, through which processes of torch exchange tensors."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        yield warning("shared memory", "there is no /dev/shm", "mount a tmpfs there")
        return
    size = shutil.disk_usage(folder).total
    if size < _LEAST_SHARED_MEMORY:
        yield warning(
            "shared memory",
            f"/dev/shm has {mebibytes(size)}, too little for models that use several processes (vllm, sglang)",
            "start the container with --shm-size=8g, or --ipc=host",
        )
    else:
        yield ok("shared memory", f"/dev/shm has {mebibytes(size)}")


def check_open_files(setup: Setup) -> Iterator[Finding]:
    """Whether as many streams can be open as may: each may bring a connection of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = setup.args.max_watches + _OWN_FILES
    told = f"{soft} files may be open (hard limit {hard})"
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield ok("open files", told)
    elif soft < _OWN_FILES:
        yield failure("open files", told, f"raise it: ulimit -n {wanted}, or LimitNOFILE={wanted} in the systemd unit")
    else:
        yield warning(
            "open files",
            f"{told}, but max_watches is {setup.args.max_watches}, and each stream may bring a connection of its own",
            f"ulimit -n {wanted} (LimitNOFILE={wanted} in a systemd unit), or lower max_watches",
        )


def check_clock(setup: Setup) -> Iterator[Finding]:
    """Whether the clock is obviously wrong: it cannot be earlier than this program was installed."""
    installed = Path(lmms_eval_grpc.__file__).stat().st_mtime
    now = time.time()
    told = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if now < installed - 1:
        yield warning(
            "clock",
            f"it is {told} by this machine, but this program was installed later than that",
            "set the clock, and keep it set by NTP (timedatectl set-ntp true)",
        )
    else:
        yield ok("clock", told)
