"""13. Results JSON: lmms-eval's keys, in the document and per task; a loader that reads lmms-eval's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.record.stored import StoredMetric, read_results, read_samples
from lmms_eval_grpc.engine.run.evaluate import evaluate
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task, write_yaml

__all__ = ["datasets_cache"]

LMMS_EVAL_KEYS = [
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config",
    "git_hash", "git_branch", "lmms_eval_version", "date", "throughput", "usage", "efficiency", "task_hashes",
    "model_source", "model_name", "model_name_sanitized", "system_instruction", "system_instruction_sha",
    "fewshot_as_multiturn", "chat_template", "chat_template_sha", "start_time", "end_time",
    "total_evaluation_time_seconds",
]  # fmt: skip
"""What lmms-eval writes when a group has scores, samples are logged and the model tells its speed, in its order."""
CONFIG_KEYS = [
    "model", "model_args", "model_backend", "batch_size", "batch_sizes", "device", "use_cache", "limit", "offset",
    "bootstrap_iters", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed", "resolved_cli_args",
]  # fmt: skip
OWN_KEYS = ["lmms_eval_grpc_version", "confidence_intervals", "sample_counts", "manifest"]


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    for name in ("one", "two"):
        write_task(tmp_path / "tasks", "metadata: {version: 1}", name=name)
    write_yaml(
        tmp_path / "tasks",
        "both.yaml",
        """
        group: both
        task: [one, two]
        aggregate_metric_list: {metric: exact_match, weight_by_size: true}
        """,
    )
    config = EvaluationConfig(model="echo", tasks=("both",), include_paths=(tmp_path / "tasks",))
    outcome = evaluate(
        config, tmp_path / "run", Recorder(), backend=ScriptedBackend(lambda text: text.replace("q", "a"))
    )
    assert outcome.results_path is not None
    written: dict[str, Any] = json.loads(outcome.results_path.read_text())
    return written


def test_the_keys_are_lmms_evals_in_its_order_and_then_our_own(document: dict[str, Any]) -> None:
    assert list(document) == [*LMMS_EVAL_KEYS, *OWN_KEYS]
    assert list(document["config"]) == CONFIG_KEYS
    assert set(document["usage"]) == {"total", "by_task", "by_source", "budget_exceeded", "budget_total_tokens"}
    assert document["usage"]["total"].keys() >= {"input_tokens", "output_tokens", "total_tokens"}
    assert set(document["efficiency"]) == {"overall", "by_task"}


def test_the_keys_of_a_task_and_of_a_group(document: dict[str, Any]) -> None:
    assert list(document["results"]["one"]) == [
        "alias", "exact_match,none", "exact_match_stderr,none", "exact_match_stderr_clt,none",
        "exact_match_stderr_clustered,none",
    ]  # fmt: skip
    assert list(document["groups"]) == ["both"]
    assert list(document["groups"]["both"]) == ["alias", "exact_match,none", "exact_match_stderr,none", "samples"]
    assert document["groups"]["both"] == document["results"]["both"]
    assert document["group_subtasks"]["both"] == ["one", "two"]
    assert document["n-samples"]["one"] == {"original": 6, "effective": 6}


def test_examples_that_a_task_has_in_its_own_text_are_shown(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", "metadata: {num_fewshot: 5}", name="own")
    write_task(tmp_path / "tasks", "metadata: {num_fewshot: 5}\nnum_fewshot: 2", name="given")
    write_task(tmp_path / "tasks", "metadata: [{num_fewshot: 5}]", name="listed")
    config = EvaluationConfig("echo", ("own", "given", "listed"), include_paths=(tmp_path / "tasks",))
    outcome = evaluate(config, tmp_path / "run", Recorder(), backend=ScriptedBackend(lambda text: text))
    assert outcome.results_document["n-shot"] == {"own": 5, "given": 2, "listed": 0}


LMMS_EVAL = {
    "results": {
        "mme": {
            "alias": "mme",
            "mme_score,none": 612.5,
            "mme_score_stderr,none": "N/A",
            "mme_score_stderr_clt,none": 0.02,
            "mme_score_stderr_clustered,none": "N/A",
            "odd,rx": [],
        },
        "head": {" ": " ", "alias": "head"},
    },
    "group_subtasks": {"head": ["mme"]},
    "higher_is_better": {"mme": {"mme_score": True, "odd": None}},
    "model_name": "org/model",
    "lmms_eval_version": "main@75571cfe",
}
CONSTANT_HASH = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
SAMPLES = [
    {
        "doc_id": 0,
        "target": "Yes",
        "filtered_resps": "yes",
        "doc_hash": CONSTANT_HASH,
        "token_counts": [{"input_tokens": 5, "output_tokens": 2, "reasoning_tokens": 0}],
        "input": "Is it?",
        "mme_score": {"score": 1.0, "question_id": "a"},
    },
    {"doc_id": 1, "resps": [["No", "no!"]], "filtered_resps": ["no"], "token_counts": None, "mme_score": {"score": 0}},
    {"doc_id": 1, "resps": ["x"], "filtered_resps": ["z"], "mme_score": {"score": 1.0}},
]


@pytest.fixture
def lmms_eval_files(tmp_path: Path) -> Path:
    path = tmp_path / "20250101_120000_results.json"
    path.write_text(json.dumps(LMMS_EVAL))
    lines = "".join(json.dumps(sample) + "\n" for sample in SAMPLES)
    (tmp_path / "20250101_120000_samples_mme.jsonl").write_text(lines + "\n")
    (tmp_path / "20250101_120001_samples_mme.jsonl").write_text("")
    return path


def test_results_of_lmms_eval_are_read(lmms_eval_files: Path) -> None:
    results = read_results(lmms_eval_files)
    assert results.metrics == {
        "mme": {("mme_score", "none"): StoredMetric(612.5, {"stderr_clt": 0.02}), ("odd", "rx"): StoredMetric(None)},
        "head": {},
    }
    assert results.model_name == "org/model"
    assert results.higher_is_better("mme") == {"mme_score": True}
    assert results.samples_paths == {"mme": lmms_eval_files.with_name("20250101_120000_samples_mme.jsonl")}


def test_samples_of_lmms_eval_are_read(lmms_eval_files: Path) -> None:
    first, second, third = read_samples(read_results(lmms_eval_files).samples_paths["mme"])
    assert (first.task, first.doc_id, first.filter, first.outcome) == ("mme", 0, "none", "ok")
    assert first.responses == ("yes",)
    assert first.doc_hash == ""  # lmms-eval writes the same for every document
    assert first.tokens == (5, 2)
    assert first.score("mme_score") == 1.0
    assert first.score("mme_score", "question_id") is None
    assert second.responses == ("No", "no!")
    assert third.filter == "none#2"


def test_our_own_results_are_read_by_the_same_loader(document: dict[str, Any], tmp_path: Path) -> None:
    (path,) = tmp_path.glob("run/results/*/*_results.json")
    results = read_results(path)
    value = results.metrics["both"]["exact_match", "none"].value
    assert value == document["results"]["both"]["exact_match,none"]
    for samples_path in results.samples_paths.values():
        assert len(read_samples(samples_path)) == 6


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": []}', '{"results": {"a": 1}}'])
def test_what_is_no_results_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x_results.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match="is not a results file") as caught:
        read_results(path)
    assert caught.value.reason == "RECORD_UNREADABLE"


@pytest.mark.parametrize("line", ["[]", "{}", '{"doc_id": 1}', "{", '{"responses": [], "outcome": "odd"}'])
def test_what_is_no_sample_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "d_samples_t.jsonl"
    path.write_text(json.dumps(SAMPLES[0]) + "\n" + line + "\n")
    with pytest.raises(EvaluationError, match="line 2: not a sample"):
        read_samples(path)


def test_a_file_that_does_not_say_its_task_needs_to_be_told(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps(SAMPLES[0]) + "\n")
    with pytest.raises(EvaluationError, match="name the task"):
        read_samples(path)
    assert read_samples(path, task="mme")[0].task == "mme"
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_samples(tmp_path / "none.jsonl")
