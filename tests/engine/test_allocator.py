"""What the allocator keeps: in a process of its own, because it is a matter of all of it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

_SCRIPT = """
from pathlib import Path
from lmms_eval_grpc.engine.allocator import count_freed, give_back_freed, keep_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed()
before = resident()
blocks = [bytearray(b"x" * (1 << 20)) for _ in range(200)]
del blocks
kept = resident() - before
freed = count_freed()
give_back_freed()
print(kept >> 20, freed >> 20, (resident() - before) >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another allocator than glibc's")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    said = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True).stdout
    kept, freed, left = map(int, said.split())
    assert kept >= 190
    assert 190 <= freed <= 230
    assert left <= 20
