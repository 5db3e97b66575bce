"""14. Samples JSONL: predicting once and scoring later, from our files and lmms-eval's, equals direct scoring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError, EvaluationOutcome
from lmms_eval_grpc.engine.record.rescore import rescore
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]

UTILS = """
def process(doc, results):
    if doc["answer"] == "a4":
        raise KeyError("no such field")
    return {"m": {"score": float(results[0] == doc["answer"]), "pair": (doc["answer"], results[0])}}


def total(items):
    assert all(isinstance(item["pair"], tuple) for item in items)  # JSON would have made it a list
    return sum(item["score"] for item in items) / len(items)
"""
KEYS = """
process_results: !function utils.process
metric_list: [{metric: m, aggregation: !function utils.total, higher_is_better: true}]
filter_list:
  - {name: plain, filter: [{function: take_first}]}
  - {name: letter, filter: [{function: regex, regex_pattern: 'a\\d'}, {function: take_first}]}
"""


def answer(text: str) -> str | Exception:
    return {
        "q0": "a0",
        "q1": "<think>a1?</think> it is a1",
        "q2": "a1",
        "q3": RuntimeError("out of tokens"),
        "q4": "a4",
        "q5": "\n a5 ",
    }[text]


@pytest.fixture
def config(tmp_path: Path) -> EvaluationConfig:
    write_task(tmp_path / "tasks", KEYS, utils=UTILS)
    # As many errors as there are samples do no harm here.
    return EvaluationConfig("echo", ("toy",), {"pretrained": "org/model"}, include_paths=(tmp_path / "tasks",))


@pytest.fixture(autouse=True)
def tolerant(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("lmms_eval_grpc.engine.run.task_run.check_errors", lambda *args, **kwargs: None)
    return None


def run(config: EvaluationConfig, folder: Path) -> EvaluationOutcome:
    return evaluate(config, folder, Recorder(), backend=ScriptedBackend(answer))


def outcomes(paths: tuple[Path, ...]) -> list[dict[str, Any]]:
    """The samples files, without what a re-scoring cannot know."""
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("error",)} for line in lines]


def without_time(outcome: EvaluationOutcome) -> list[Any]:
    return [replace(score, seconds=0.0) for score in outcome.tasks]


def test_scoring_later_equals_scoring_at_once(config: EvaluationConfig, tmp_path: Path) -> None:
    direct = run(config, tmp_path / "direct")
    predicted = run(replace(config, predict_only=True), tmp_path / "predicted")
    assert direct.tasks[0].metrics
    assert (direct.tasks[0].samples_scored, direct.tasks[0].samples_errored) == (4, 2)
    later = rescore(config, [tmp_path / "predicted" / SAMPLES], tmp_path / "later")
    assert without_time(later) == without_time(direct)
    assert outcomes(later.samples_paths) == outcomes(direct.samples_paths)
    assert predicted.tasks[0].metrics == ()


def test_files_in_lmms_evals_layout_are_scored_again(config: EvaluationConfig, tmp_path: Path) -> None:
    direct = run(config, tmp_path / "direct")
    again = rescore(config, direct.samples_paths, tmp_path / "again")
    assert without_time(again) == without_time(direct)
    assert again.results_document["results"] == direct.results_document["results"]
    assert again.manifest["rescored_from"] == [path.name for path in direct.samples_paths]
    assert again.manifest["tasks"]["toy"]["items_digest"] == direct.manifest["tasks"]["toy"]["items_digest"]


def test_a_file_of_lmms_evals_own_is_scored(config: EvaluationConfig, tmp_path: Path) -> None:
    path = tmp_path / "20250101_000000_samples_toy.jsonl"
    path.write_text(
        "".join(json.dumps({"doc_id": i, "target": f"a{i}", "filtered_resps": f"a{i % 2}"}) + "\n" for i in range(4))
    )
    (score,) = rescore(config, [path], tmp_path / "out").tasks
    assert {(metric.filter, metric.value) for metric in score.metrics} == {("plain", 0.5), ("letter", 0.5)}
    assert score.samples_scored == 4


def test_likelihoods_are_scored_again(tmp_path: Path) -> None:
    documents = [{"question": "q", "answer": i % 2, "choices": ["red", "blue"]} for i in range(3)]
    keys = "output_type: multiple_choice\ndoc_to_choice: choices\n"
    write_task(tmp_path / "tasks", keys, documents=documents)
    config = EvaluationConfig("echo", ("toy",), include_paths=(tmp_path / "tasks",))
    path = tmp_path / "samples.jsonl"
    record = {"task": "toy", "filter": "none", "outcome": "ok", "responses": ["[-1.0, true]", "[-1.2, false]"]}
    path.write_text("".join(json.dumps({**record, "doc_id": i}) + "\n" for i in range(3)))
    (score,) = rescore(config, [path], tmp_path / "out").tasks
    assert {metric.name: metric.value for metric in score.metrics} == {
        "acc": pytest.approx(2 / 3), "acc_norm": pytest.approx(1 / 3)
    }  # fmt: skip


def test_other_documents_are_refused(config: EvaluationConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "direct")
    write_task(tmp_path / "tasks", KEYS, documents=[{"question": f"q{i}", "answer": "other"} for i in range(6)])
    with pytest.raises(EvaluationError, match="document 0: it is not the document that was answered") as caught:
        rescore(config, [tmp_path / "direct" / SAMPLES], tmp_path / "again")
    assert caught.value.reason == "DOCUMENTS_DIFFER"


def test_a_task_without_samples_and_a_document_that_is_not_there_are_refused(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    path = tmp_path / "d_samples_other.jsonl"
    path.write_text('{"doc_id": 9, "filtered_resps": "x"}\n')
    with pytest.raises(EvaluationError, match="no stored samples"):
        rescore(config, [path], tmp_path / "out")
    path = path.rename(tmp_path / "d_samples_toy.jsonl")
    with pytest.raises(EvaluationError, match="has only 6 documents"):
        rescore(config, [path], tmp_path / "out")
