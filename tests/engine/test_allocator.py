"""What the allocator keeps: in processes of their own, because it is a matter of all of one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="another allocator than glibc's"
)

_KEPT = """
import resource
from pathlib import Path
from lmms_eval_grpc.engine.allocator import give_back_freed, keep_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

keep_freed()
before = resident()
blocks = [bytearray(b"x" * (1 << 20)) for _ in range(200)]
del blocks
kept = resident() - before
give_back_freed()
print(kept >> 20, (resident() - before) >> 20)
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


def said_by(script: str, **variables: str) -> list[int]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, env=environment | variables, stdout=subprocess.PIPE, text=True, check=True)
    return [int(word) for word in ran.stdout.split()]


def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    kept, left = said_by(_KEPT)
    assert kept >= 190
    assert left <= 20


def test_threads_share_heaps() -> None:
    assert said_by(_THREADS)[0] <= 1
    assert said_by(_THREADS.replace("share_heaps()\n", "\n"))[0] >= 4, "or this test does not find them"


def test_what_the_environment_sets_is_left_alone() -> None:
    assert said_by(_THREADS, MALLOC_ARENA_MAX="8")[0] >= 4
