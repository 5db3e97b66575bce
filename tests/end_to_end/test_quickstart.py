"""The first thing a user runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quickstart_evaluates_every_checkpoint_while_training_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/quickstart.py"), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=580,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    checkpoints = results["checkpoints"]
    scores = [checkpoint["metrics"][0]["value"] for checkpoint in checkpoints]
    assert [checkpoint["step"] for checkpoint in checkpoints] == [0, 75, 100, 150, 200, 300]
    assert scores[0] < 0.5
    assert min(scores[-2:]) >= 0.90
    assert any(checkpoint["started"] < results["training_ended"] for checkpoint in checkpoints)
    assert (tmp_path / "out/curve.png").stat().st_size > 10_000
    for command in ("grpcurl -plaintext", "python -c", "lmms-eval-grpc samples"):
        assert command in done.stdout
