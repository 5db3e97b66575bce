"""The check of hot paths fails where one takes much more than is committed, and says which."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = json.loads((ROOT / "benchmarks" / "results" / "hot_paths.json").read_text())["units"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"events": 1e-6}, "events: "),
        ({"scoring": None}, "scoring: no committed figure"),
        ({}, ""),
    ],
)
def test_a_path_that_became_slow_is_named(tmp_path: Path, changes: dict[str, float | None], complaint: str) -> None:
    generous = dict.fromkeys(COMMITTED, 1e6) | changes
    known = {name: units for name, units in generous.items() if units is not None}
    (tmp_path / "figures.json").write_text(json.dumps({"units": known}))
    command = [sys.executable, "benchmarks/hot_paths.py", "--rounds", "1", "--check", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (1 if complaint else 0), done.stderr
    named = [line for line in done.stderr.splitlines() if line.startswith(tuple(f"{name}: " for name in COMMITTED))]
    assert len(named) == bool(complaint)
    assert all(line.startswith(complaint) for line in named)
    assert json.loads(done.stdout)["units"].keys() == COMMITTED.keys()
