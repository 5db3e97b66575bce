"""The client works with the oldest grpcio and protobuf that it promises, and with the newest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ends_of_the_runtime_matrix(tmp_path: Path) -> None:
    """`scripts/runtime_matrix` tries all in between, and Pythons."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/runtime_matrix.py"), "--ends", "--quick"],
        capture_output=True,
        text=True,
        timeout=880,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    oldest, newest = done.stdout.splitlines()
    assert oldest.startswith("ok ")
    assert "1.63.2 5.26.1" in oldest
    assert newest.startswith("ok ")
