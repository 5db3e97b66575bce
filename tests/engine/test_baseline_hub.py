"""Baselines on the hub: the real client, in a process of its own, against a local server that speaks for the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub_server import serve_repository
from tests.support.task_files import QUESTIONS, datasets_cache, write_task

__all__ = ["datasets_cache"]

SCRIPT = """
import json, sys
from pathlib import Path
from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.run.evaluate import evaluate
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder

folder, baseline = Path(sys.argv[1]), sys.argv[2]
config = EvaluationConfig("echo", ("toy",), {}, include_paths=(folder,), baseline=baseline)
backend = ScriptedBackend(lambda text: text.replace("q", "a"))
try:
    outcome = evaluate(config, folder / "run", Recorder(), backend=backend)
except EvaluationError as error:
    print(json.dumps({"reason": error.reason, "message": error.message, "asked": len(backend.asked)}))
else:
    found = outcome.tasks[0].metrics[0].baseline
    print(json.dumps([found.documents, found.score, found.baseline_score]))
"""


def samples(scores: list[float]) -> bytes:
    lines = ({"doc_id": n, "filtered_resps": ["x"], "exact_match": score} for n, score in enumerate(scores))
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


FILES = {
    "README.md": b"runs",
    "old/20250101_000000_samples_toy.jsonl": samples([0.0] * 6),
    "new/20250301_000000_samples_toy.jsonl": samples([1.0, 0.0, 0.0]),
    "new/20250301_000000_samples_other.jsonl": samples([0.0]),
}


def evaluate_with(endpoint: str, baseline: str, folder: Path) -> object:
    write_task(folder, documents=QUESTIONS)
    environment = os.environ | {
        "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub"), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), baseline],
        env=environment, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("hf://user/runs", [3, 1.0, 1 / 3]),
        ("hf://user/runs/old/20250101_000000_samples_toy.jsonl", [6, 1.0, 0.0]),
    ],
)
def test_a_run_on_the_hub_is_fetched_and_compared(baseline: str, expected: list[float], tmp_path: Path) -> None:
    with serve_repository("user/runs", FILES) as (endpoint, asked):
        assert evaluate_with(endpoint, baseline, tmp_path) == pytest.approx(expected)
    assert not any("other" in path for path in asked)


def test_a_file_that_the_hub_has_not_fails_before_anything_is_asked(tmp_path: Path) -> None:
    with serve_repository("user/runs", FILES) as (endpoint, _):
        told = evaluate_with(endpoint, "hf://user/runs/none.jsonl", tmp_path)
    assert isinstance(told, dict)
    assert (told["reason"], told["asked"]) == ("BASELINE_UNREADABLE", 0)
    assert "hf://user/runs/none.jsonl cannot be had from the hub" in told["message"]
