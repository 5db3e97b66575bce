"""What is left of attempts that come to different outcomes, and of an evaluation that keeps no samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationOutcome
from lmms_eval_grpc.engine.record.stored import read_samples
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]

DOCUMENTS = [{"question": f"q{number}", "answer": f"Q{number}"} for number in range(40)]
UTILS = """
import os

def process_results(doc, results):
    if doc["question"] == os.environ.get("FAIL_ON"):
        raise RuntimeError("no answer from the judge")
    return {"exact_match": float(results[0] == doc["answer"])}
"""
KEYS = """
process_results: !function utils.process_results
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def config(tmp_path: Path) -> EvaluationConfig:
    """Two tasks of 40 documents each, whose scorer fails on the document that ``FAIL_ON`` names."""
    for name in ("first", "second"):
        write_task(tmp_path / "tasks", KEYS, name=name, documents=DOCUMENTS, utils=UTILS)
    return EvaluationConfig("idefics3", ("first", "second"), include_paths=(tmp_path / "tasks",))


def run(config: EvaluationConfig, run_dir: Path, reporter: Recorder | None = None) -> EvaluationOutcome:
    return evaluate(config, run_dir, reporter or Recorder(), backend=ScriptedBackend(str.upper))


def outcomes(path: Path, **named: Any) -> list[str]:
    """The outcomes of document 3 of the first task."""
    return [sample.outcome for sample in read_samples(path, **named) if (sample.task, sample.doc_id) == ("first", 3)]


@pytest.mark.parametrize("fails_first", [True, False])
def test_the_records_say_what_the_score_says_when_a_scorer_changed_its_mind(
    config: EvaluationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_first: bool
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setenv("FAIL_ON", "q3" if fails_first else "")
    with pytest.raises(EvaluationCancelled):
        run(config, run_dir, Recorder(cancel_at=60))
    monkeypatch.setenv("FAIL_ON", "" if fails_first else "q3")
    outcome = run(config, run_dir)
    newest = "ok" if fails_first else "scoring_error"
    assert outcome.tasks[0].samples_errored == (newest != "ok")
    assert outcomes(outcome.samples_paths[0]) == [newest]
    assert outcomes(run_dir / SAMPLES) == [newest]
    assert [len(path.read_text().splitlines()) for path in outcome.samples_paths] == [40, 40]
    assert outcome.results_document["efficiency"]["by_task"]["first"]["docs"] == 40


def test_samples_left_out_for_want_of_tokens_are_answered_ones_once_they_were(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run(replace(config, max_tokens=2), run_dir)
    assert outcomes(run_dir / SAMPLES) == ["budget_exceeded"]
    run(replace(config, max_tokens=1000), run_dir)
    assert outcomes(run_dir / SAMPLES) == ["ok"]


def test_usage_does_not_depend_on_samples_being_kept(config: EvaluationConfig, tmp_path: Path) -> None:
    config = replace(config, max_tokens=50)
    kept = run(config, tmp_path / "kept").results_document
    not_kept = run(replace(config, log_samples=False), tmp_path / "not kept").results_document
    assert not_kept["usage"] == kept["usage"]
    assert not_kept["usage"]["budget_exceeded"] is True
    assert not_kept["usage"]["total"]["output_tokens"] >= 50
    assert not_kept["efficiency"] == {}
