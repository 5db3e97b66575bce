"""Memory in huge pages, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_GATHERS = """
from pathlib import Path
from lmms_eval_grpc.worker import huge_pages

def huge():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))

kept = bytearray(bytes(range(256)) * 4096 * 64)
before = huge()
steps = list(huge_pages.gather())
assert kept == bytes(range(256)) * 4096 * 64
assert all(steps)
print(before, huge(), len(steps))
"""


def test_a_process_whose_memory_was_gathered_reads_the_same() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("a kernel without huge pages, or one that does not tell of them")
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 1):
        pytest.skip("a kernel older than 6.1 moves nothing")
    ran = subprocess.run([sys.executable, "-c", _GATHERS], check=True, stdout=subprocess.PIPE, text=True)
    before, after, steps = map(int, ran.stdout.split())
    if "[never]" in setting.read_text():
        assert steps == 0
        return
    assert steps >= 31, "64 MiB, of which the ends may be parts of pages"
    # Some may be in huge pages from the start; nearly all are now.
    assert after >= max(before, 48 * 1024)
