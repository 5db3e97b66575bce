"""The short examples of the Python client, as a user would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.behaviour import CLIENTS, ROOT
from tests.clients.conftest import HeldServer

FOLDER = CLIENTS / "python"

pytestmark = pytest.mark.slow


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_sync(server: HeldServer, tiny_checkpoint: Path) -> None:
    done = run("sync.py", server.address, str(tiny_checkpoint), "held_digits")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\[\d+\] (JOB_STATE_\w+)$", done.stdout, re.MULTILINE)[-1] == "JOB_STATE_COMPLETED"
    assert re.search(r"^held_digits exact_match,none = 0\.\d{4} \[-?0\.\d{4}, 0\.\d{4}\]$", done.stdout, re.MULTILINE)
    assert "held_digits nothing,none = undefined" in done.stdout


def test_sync_names_what_is_wrong_with_a_request(server: HeldServer, tmp_path: Path) -> None:
    done = run("sync.py", server.address, str(tmp_path / "no-checkpoint"), "held_digit")
    assert done.returncode == 2
    assert re.search(r"^spec\.tasks\[0\]: .*held_digits", done.stderr, re.MULTILINE)
    assert "no-checkpoint" in done.stderr


def test_async(server: HeldServer, tiny_checkpoint: Path) -> None:
    checkpoints = [str(tiny_checkpoint), f"{tiny_checkpoint}/"]
    done = run("async.py", server.address, "held_digits", *checkpoints)
    assert done.returncode == 0, done.stderr
    for checkpoint in checkpoints:
        assert re.search(rf"^{re.escape(checkpoint)} exact_match = 0\.\d{{4}} ± 0\.\d{{4}}$", done.stdout, re.MULTILINE)


def test_trainer(server: HeldServer, tmp_path: Path) -> None:
    done = run("trainer.py", server.address, str(tmp_path / "run"), "2")
    assert done.returncode == 0, done.stderr
    scored = re.findall(r"^step (\d+): completed exact_match = \d\.\d{4}$", done.stdout, re.MULTILINE)
    assert scored == ["0", "1", "2"]


def test_notebook(server: HeldServer, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("LMMS_EVAL_GRPC_ADDRESS", server.address)
    monkeypatch.setenv("CHECKPOINT", str(tiny_checkpoint))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(FOLDER / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=240).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = str(outputs)
    assert "20/20 samples" in printed
    assert re.search(r"exact_match: \d\.\d{3} \[-?\d\.\d{3}, \d\.\d{3}\]", printed)
    html = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", ())]
    (waited, job, result, frame) = html
    # One display, updated in place until the end.
    assert re.search(r"Job \w{8}: running.*Job \w{8}: completed", waited)
    assert "<b>Job " in job
    assert "<td>handwritten_digits</td><td>exact_match</td>" in job
    assert "<td>handwritten_digits</td><td>exact_match</td>" in result
    assert "scores.exact_match" in frame
    assert "['state_change', 'state_change', 'task_result', 'state_change']" in printed
