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


_THREADS = """
import re
import threading
from pathlib import Path
from lmms_eval_grpc.engine.allocator import share_heaps

share_heaps()
together = threading.Barrier(8)

def work():
    together.wait()
    kept = [bytes(2000) for _ in range(1000)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
# A heap that is not the first one begins at a multiple of 64 MiB.
addresses = re.findall("^([0-9a-f]+)-[0-9a-f]+ rw-p 00000000 00:00 0 *$", Path("/proc/self/maps").read_text(), re.M)
print(sum(int(address, 16) % (64 << 20) == 0 for address in addresses))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another allocator than glibc's")
def test_threads_share_heaps() -> None:
    said = subprocess.run([sys.executable, "-c", _THREADS], capture_output=True, text=True, check=True).stdout
    assert int(said) <= 1
    without = _THREADS.replace("share_heaps()\n", "\n")
    said = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True).stdout
    assert int(said) >= 4, "or this test does not find them"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another allocator than glibc's")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    said = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True).stdout
    kept, freed, left = map(int, said.split())
    assert kept >= 190
    assert 190 <= freed <= 230
    assert left <= 20
