"""Memory in huge pages, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

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
assert steps and all(steps)
print(before, huge(), len(steps))
"""


def test_a_process_whose_memory_was_gathered_reads_the_same() -> None:
    ran = subprocess.run([sys.executable, "-c", _GATHERS], check=True, capture_output=True, text=True)
    before, after, steps = map(int, ran.stdout.split())
    assert steps >= 31, "64 MiB, of which the ends may be parts of pages"
    # A kernel that has none, or is older than 6.1, refuses them all.
    assert after >= before
