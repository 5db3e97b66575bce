"""An evaluation compared with an earlier run: where that may come from, what it says, what is refused and when."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import BaselineComparison, EvaluationConfig, EvaluationError, EvaluationOutcome
from lmms_eval_grpc.engine.record import baseline_source
from lmms_eval_grpc.engine.record.baseline_source import HubSource, LocalSource, PresetSource, parse_baseline
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]

DOCUMENTS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(20)]
CONSTANT = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"


def right_up_to(count: int) -> ScriptedBackend:
    """Answers the first ``count`` questions right."""
    return ScriptedBackend(lambda text: text.replace("q", "a") if int(text[1:]) < count else "no")


@pytest.fixture
def config(tmp_path: Path) -> EvaluationConfig:
    write_task(tmp_path / "tasks", documents=DOCUMENTS)
    return EvaluationConfig("echo", ("toy",), {"pretrained": "org/model"}, include_paths=(tmp_path / "tasks",))


def run(config: EvaluationConfig, run_dir: Path, right: int, reporter: Recorder | None = None) -> EvaluationOutcome:
    return evaluate(config, run_dir, reporter or Recorder(), backend=right_up_to(right))


def comparison(outcome: EvaluationOutcome) -> BaselineComparison:
    found = outcome.tasks[0].metrics[0].baseline
    assert found is not None
    return found


def refused(config: EvaluationConfig, run_dir: Path) -> EvaluationError:
    """The error of an evaluation whose model cannot be loaded either: a baseline must fail first."""
    with pytest.raises(EvaluationError) as caught:
        evaluate(replace(config, model="idefics3", model_args={"pretrained": "/no/model"}), run_dir, Recorder())
    return caught.value


def test_a_run_is_compared_with_an_earlier_one(config: EvaluationConfig, tmp_path: Path) -> None:
    earlier = run(config, tmp_path / "earlier", 4)
    (samples,) = earlier.samples_paths
    reporter = Recorder()
    outcome = run(replace(config, baseline=str(samples)), tmp_path / "run", 16, reporter)
    found = comparison(outcome)
    # Twelve documents won, none lost: McNemar's mid-p value is 2 * 2**-12 - 2**-12.
    assert found.p_value == found.adjusted_p_value == pytest.approx(2**-12, rel=1e-12)
    assert (found.method, found.verdict, found.documents) == ("mcnemar_mid_p", "better", 20)
    assert (found.score, found.baseline_score) == (0.8, 0.2)
    assert found.difference == pytest.approx(0.6, abs=1e-12)
    # The differences are twelve ones and eight zeros; 2.0930240544083096 is t's 97.5 % quantile at 19 degrees.
    error = math.sqrt((12 - 20 * 0.36) / 19 / 20)
    assert found.confidence_lower == pytest.approx(0.6 - 2.0930240544083096 * error, abs=1e-12)
    assert found.confidence_upper == pytest.approx(0.6 + 2.0930240544083096 * error, abs=1e-12)
    assert reporter.scores[0].metrics[0].baseline == found

    row = outcome.results_document["results"]["toy"]
    assert {key: value for key, value in row.items() if key.startswith("paired_")} == {
        "paired_baseline": str(samples),
        "paired_baseline_score": 0.2,
        "paired_ci_lower": found.confidence_lower,
        "paired_ci_upper": found.confidence_upper,
        "paired_pvalue": found.t_p_value,
        "paired_score": 0.8,
        "paired_metric": "exact_match,none",
    }
    told = outcome.results_document["baseline_comparisons"]["toy"]["exact_match,none"]
    assert (told["verdict"], told["p_value"]) == ("better", found.p_value)
    assert outcome.manifest["baseline"]["name"] == str(samples)
    assert len(outcome.manifest["baseline"]["files"][samples.name]) == 64
    assert "baseline_comparisons" not in earlier.results_document
    assert not any(key.startswith("paired_") for key in earlier.results_document["results"]["toy"])


@pytest.mark.parametrize("form", ["results", "results file", "job folder", "samples of the job"])
def test_every_form_of_an_earlier_run_says_the_same(form: str, config: EvaluationConfig, tmp_path: Path) -> None:
    earlier = run(config, tmp_path / "earlier", 4)
    path = {
        "results": tmp_path / "earlier" / "results",
        "results file": earlier.results_path,
        "job folder": tmp_path / "earlier",
        "samples of the job": tmp_path / "earlier" / SAMPLES,
    }[form]
    # The scores of this run are compared though its samples are not kept.
    outcome = run(replace(config, baseline=str(path), log_samples=False), tmp_path / "run", 16)
    assert outcome.samples_paths == ()
    assert comparison(outcome).baseline_score == 0.2


def test_of_a_folder_the_newest_run_counts_and_equal_runs_are_not_enough_evidence(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    config = replace(config, output_dir=tmp_path / "results")
    for number, right in enumerate((2, 9, 7)):
        run(config, tmp_path / f"earlier-{number}", right)
    outcome = run(replace(config, baseline=str(tmp_path / "results")), tmp_path / "run", 7)
    found = comparison(outcome)
    assert (found.score, found.baseline_score, found.difference) == (0.35, 0.35, 0.0)
    assert (found.verdict, found.p_value) == ("not_enough_evidence", 1.0)


def test_dates_and_numbers_in_names_decide_what_is_newest() -> None:
    names = ["x/20250101_000000_samples_a.jsonl", "x/20250101_000000-10_samples_a.jsonl", "run_log.jsonl",
             "y/20250101_000000-9_samples_a.jsonl", "20241231_235959_samples_b_samples_c.jsonl"]  # fmt: skip
    assert baseline_source.newest_by_task(names) == {
        "a": "x/20250101_000000-10_samples_a.jsonl",
        "b_samples_c": "20241231_235959_samples_b_samples_c.jsonl",
    }


def test_a_file_of_lmms_eval_is_compared_by_its_documents_numbers(config: EvaluationConfig, tmp_path: Path) -> None:
    file = tmp_path / "theirs.jsonl"
    lines = [
        {"doc_id": n, "target": f"a{n}", "filtered_resps": ["x"], "doc_hash": CONSTANT, "input": f"q{n}",
         "exact_match": float(n < 10)}
        for n in range(5, 30)
    ]  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = comparison(run(replace(config, baseline=str(file)), tmp_path / "run", 20))
    # Documents 5 to 19 are in both; 5 to 9 are right in theirs.
    assert (found.documents, found.score, found.baseline_score) == (15, 1.0, pytest.approx(1 / 3))


def test_filters_that_lmms_eval_does_not_name_are_taken_in_the_tasks_order(tmp_path: Path) -> None:
    filters = "\n".join(f"  - {{name: {name}, filter: [{{function: take_first}}]}}" for name in ("strict", "loose"))
    write_task(tmp_path / "tasks", f"filter_list:\n{filters}\n", documents=DOCUMENTS)
    config = EvaluationConfig("echo", ("toy",), {}, include_paths=(tmp_path / "tasks",))
    file = tmp_path / "20250101_000000_samples_toy.jsonl"
    lines = [
        {"doc_id": n, "target": "", "filtered_resps": ["x"], "exact_match": score}
        for score in (1.0, 0.0)
        for n in range(20)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = run(replace(config, baseline=str(file)), tmp_path / "run", 10).tasks[0].metrics
    told = {metric.filter: metric.baseline for metric in metrics}
    assert told["strict"] is not None
    assert told["loose"] is not None
    assert (told["strict"].baseline_score, told["loose"].baseline_score) == (1.0, 0.0)
    # Two metrics are compared, so each p-value counts twice.
    assert told["strict"].adjusted_p_value == pytest.approx(2 * (told["strict"].p_value or 0), rel=1e-12)


MAPPINGS = """
def process(doc, results):
    return {
        "pairs": {"pred_answer": results[0], "answer": doc["answer"]},
        "percent": {"score": float(results[0] == doc["answer"]), "set": doc["answer"][-1]},
    }


def accuracy(items):
    return sum(item["pred_answer"] == item["answer"] for item in items) / len(items)


def percent(items):
    return 100 * sum(item["score"] for item in items) / len(items)
"""
MAPPING_KEYS = """
process_results: !function utils.process
cluster_key: set
metric_list:
  - {metric: pairs, aggregation: !function utils.accuracy, higher_is_better: true}
  - {metric: percent, aggregation: !function utils.percent, higher_is_better: true}
"""


def test_one_scale_whatever_the_aggregation_makes_of_scores_and_clusters_count(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", MAPPING_KEYS, documents=DOCUMENTS, utils=MAPPINGS)
    config = EvaluationConfig("echo", ("toy",), {}, include_paths=(tmp_path / "tasks",))
    run(config, tmp_path / "earlier", 4)
    outcome = run(replace(config, baseline=str(tmp_path / "earlier")), tmp_path / "run", 16)
    pairs, percent = outcome.tasks[0].metrics
    assert (percent.name, percent.value) == ("percent", 80.0)
    for metric in (pairs, percent):
        assert metric.baseline is not None
        assert (metric.baseline.score, metric.baseline.baseline_score) == (0.8, 0.2)
        assert (metric.baseline.method, metric.baseline.confidence_method) == ("paired_t_clustered", "t_clustered")


def test_other_documents_are_refused_before_the_model_is_loaded(config: EvaluationConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "earlier", 4)
    write_task(tmp_path / "tasks", documents=[*DOCUMENTS[:3], {"question": "q3", "answer": "new"}, *DOCUMENTS[4:]])
    error = refused(replace(config, baseline=str(tmp_path / "earlier")), tmp_path / "run")
    assert error.reason == "DOCUMENTS_DIFFER"
    assert "task toy, document 3, and 0 more" in error.message


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        ("not json\n", "BASELINE_UNREADABLE", "line 1: not a sample"),
        ("", "NOTHING_TO_COMPARE", r"toy \(exact_match\); it has no sample"),
        ('{"doc_id": 3, "filtered_resps": ["x"], "anls": 0.5}\n', "NOTHING_TO_COMPARE", r"it has toy \(anls\)"),
        (
            '{"doc_id": 99, "filtered_resps": ["x"], "exact_match": 1}\n',
            "NOTHING_TO_COMPARE",
            "limit and offset select",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_model_is_loaded(
    content: str, reason: str, words: str, config: EvaluationConfig, tmp_path: Path
) -> None:
    (tmp_path / "samples.jsonl").write_text(content)
    error = refused(replace(config, baseline=str(tmp_path / "samples.jsonl")), tmp_path / "run")
    assert error.reason == reason
    with pytest.raises(EvaluationError, match=words):
        raise error


def test_a_run_of_another_task_and_a_folder_without_samples_are_refused(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    other = tmp_path / "20250101_000000_samples_other.jsonl"
    other.write_text('{"doc_id": 3, "filtered_resps": ["x"], "exact_match": 1}\n')
    error = refused(replace(config, baseline=str(other)), tmp_path / "run")
    assert (error.reason, "it has other (exact_match)" in error.message) == ("NOTHING_TO_COMPARE", True)
    (tmp_path / "empty").mkdir()
    error = refused(replace(config, baseline=str(tmp_path / "empty")), tmp_path / "run")
    assert (error.reason, "no samples file" in error.message) == ("BASELINE_UNREADABLE", True)


def test_a_preset_of_other_tasks_says_which(config: EvaluationConfig, tmp_path: Path) -> None:
    error = refused(replace(config, baseline="qwen25vl"), tmp_path / "run")
    assert error.reason == "BASELINE_UNREADABLE"
    assert "the preset is of videomme_w_subtitle, and not of toy" in error.message


def test_the_hub_offline_is_a_clear_error(config: EvaluationConfig, tmp_path: Path) -> None:
    import huggingface_hub.constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        error = refused(replace(config, baseline="hf://user/repo/run.jsonl"), tmp_path / "run")
    assert error.reason == "BASELINE_UNREADABLE"
    assert "hf://user/repo/run.jsonl cannot be had from the hub" in error.message
    assert "download the file and give its path" in error.message


def test_what_a_baselines_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert parse_baseline("mine") == LocalSource(Path("mine"))
    assert parse_baseline("hf://user/repo") == HubSource("user/repo")
    assert parse_baseline("hf://datasets/user/repo@v1/a/b.jsonl") == HubSource("user/repo", "v1", "a/b.jsonl")
    assert parse_baseline("https://huggingface.co/datasets/user/repo/") == HubSource("user/repo")
    assert parse_baseline("https://huggingface.co/datasets/user/repo/blob/main/b.jsonl") == HubSource(
        "user/repo", "main", "b.jsonl"
    )
    preset = parse_baseline("qwen25vl")
    assert isinstance(preset, PresetSource)
    assert parse_baseline("qwen25vl:videomme_w_subtitle") == preset
    assert all(isinstance(source, HubSource) and source.file for source in preset.files.values())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/file.jsonl", "there is no file or folder '/no/such/file.jsonl' on the machine that runs"),
        ("runs/old", "there is no file or folder"),
        ("old.jsonl", "there is no file or folder"),
        ("qwen25", "nor a preset; presets: qwen25vl; did you mean 'qwen25vl'"),
        ("gpt:mme", "presets: qwen25vl"),
        ("qwen25vl:mme", "no baseline of task 'mme'; it has qwen25vl:videomme_w_subtitle"),
        ("hf://user", "write hf://user/repo or hf://user/repo/file"),
        ("https://example.org/x.jsonl", "does not name files on the hub"),
        ("bad\0name", "neither a path"),
    ],
)
def test_names_that_mean_nothing_say_what_they_may_be(name: str, words: str) -> None:
    with pytest.raises(baseline_source.BaselineNameError) as caught:
        parse_baseline(name)
    assert words in str(caught.value)


def test_samples_name_their_metric_though_a_line_has_such_a_key(tmp_path: Path) -> None:
    from lmms_eval_grpc.engine.record.stored import read_samples

    line: dict[str, Any] = {"doc_id": 0, "filtered_resps": "x", "target": "t", "metric_target": 1.0, "metric_own": 0.5}
    file = tmp_path / "20250101_000000_samples_toy.jsonl"
    file.write_text(json.dumps(line))
    assert read_samples(file)[0].scores == {"target": 1.0, "metric_own": 0.5}
