"""10. Multiple choice: backends that return losses and backends that return log-probabilities predict the same."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError, TaskScore
from lmms_eval_grpc.engine.run.evaluate import evaluate
from tests.support.backends import LikelihoodBackend, ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]

DOCUMENTS = [
    {"question": f"q{number}", "options": ["yes", "no way", "perhaps"], "answer": number % 3} for number in range(12)
]
KEYS = """\
output_type: multiple_choice
doc_to_choice: options
doc_to_target: answer
"""


def weigh(prompt: str, continuation: str) -> float:
    """Anything that differs from question to question and from choice to choice."""
    return -(zlib.crc32(f"{prompt} {continuation}".encode()) % 1000) / 100


def config(folder: Path, **changes: Any) -> EvaluationConfig:
    return EvaluationConfig("huggingface", ("toy",), {"pretrained": "none"}, include_paths=(folder,), **changes)


def run(folder: Path, run_dir: Path, backend: ScriptedBackend, **changes: Any) -> TaskScore:
    (score,) = evaluate(config(folder, **changes), run_dir, Recorder(), backend=backend).tasks
    return score


def predicted(number: int) -> int:
    weights = [weigh(f"q{number}", choice) for choice in DOCUMENTS[0]["options"]]
    return weights.index(max(weights))


def test_losses_and_log_probabilities_give_the_same_predictions(tmp_path: Path) -> None:
    write_task(tmp_path, KEYS, documents=DOCUMENTS)
    plain = run(tmp_path, tmp_path / "plain", LikelihoodBackend(weigh))
    losses = run(tmp_path, tmp_path / "losses", LikelihoodBackend(weigh, loss=True))
    assert [metric.name for metric in plain.metrics] == ["acc", "acc_norm"]
    assert plain.metrics == losses.metrics
    assert plain.metrics[0].value == sum(predicted(n) == n % 3 for n in range(12)) / 12


def test_a_tasks_own_scorer_gets_losses_as_in_lmms_eval(tmp_path: Path) -> None:
    utils = """
        def process_results(doc, results):
            smallest = min(range(len(results)), key=lambda number: results[number][0])
            return {"picked": float(smallest == doc["answer"]), "greedy": float(results[0][1])}
    """
    metrics = [f"{{metric: {name}, aggregation: mean, higher_is_better: true}}" for name in ("picked", "greedy")]
    keys = f"{KEYS}process_results: !function utils.process_results\nmetric_list: [{', '.join(metrics)}]\n"
    write_task(tmp_path, keys, documents=DOCUMENTS, utils=utils)
    picked, greedy = run(tmp_path, tmp_path / "run", LikelihoodBackend(weigh)).metrics
    assert picked.value == sum(predicted(n) == n % 3 for n in range(12)) / 12
    assert greedy.value == sum(weigh(f"q{n}", "yes") > -1 for n in range(12)) / 12


def test_an_interrupted_run_asks_only_the_missing_choices(tmp_path: Path) -> None:
    write_task(tmp_path, KEYS, documents=DOCUMENTS)
    whole = run(tmp_path, tmp_path / "whole", LikelihoodBackend(weigh))
    first = LikelihoodBackend(weigh, batch_size=4)
    with pytest.raises(EvaluationCancelled):
        evaluate(config(tmp_path), tmp_path / "run", Recorder(cancel_at=5), backend=first)
    again = LikelihoodBackend(weigh, batch_size=4)
    assert run(tmp_path, tmp_path / "run", again).metrics == whole.metrics
    assert len(first.asked) + len(again.asked) == 36
    assert not set(first.asked) & set(again.asked)


def test_mutual_information_compares_with_the_choice_alone(tmp_path: Path) -> None:
    keys = KEYS + "metric_list: [{metric: acc_mutual_info, aggregation: mean, higher_is_better: true}]\n"
    write_task(tmp_path, keys, documents=DOCUMENTS)
    (metric,) = run(tmp_path, tmp_path / "run", LikelihoodBackend(weigh)).metrics
    right = 0
    for number in range(12):
        gains = [weigh(f"q{number}", choice) - weigh("", choice) for choice in DOCUMENTS[0]["options"]]
        right += gains.index(max(gains)) == number % 3
    assert metric.value == right / 12


def test_a_question_that_is_a_number_makes_the_choices_contexts(tmp_path: Path) -> None:
    keys = "output_type: multiple_choice\ndoc_to_choice: options\ndoc_to_text: answer\ndoc_to_target: '{{question}}'"
    write_task(tmp_path, keys, documents=DOCUMENTS)
    backend = LikelihoodBackend(weigh)
    score = run(tmp_path, tmp_path / "run", backend)
    assert backend.asked[:3] == ["yes -> q0", "no way -> q0", "perhaps -> q0"]
    right = 0
    for number in range(12):
        weights = [weigh(choice, f"q{number}") for choice in DOCUMENTS[0]["options"]]
        right += weights.index(max(weights)) == number % 3
    assert score.metrics[0].value == right / 12


def test_loglikelihood_scores_the_target(tmp_path: Path) -> None:
    write_task(tmp_path, "output_type: loglikelihood")
    backend = LikelihoodBackend(weigh)
    perplexity, accuracy = run(tmp_path, tmp_path / "run", backend).metrics
    assert backend.asked == [f"q{n} -> a{n}" for n in range(6)]
    assert accuracy.value == sum(weigh(f"q{n}", f"a{n}") > -1 for n in range(6)) / 6
    assert perplexity.value > 1


def test_a_backend_without_likelihoods_is_refused_with_the_remedy(tmp_path: Path) -> None:
    write_task(tmp_path, KEYS, documents=DOCUMENTS)
    with pytest.raises(EvaluationError, match=r"needs likelihoods.*choose another backend") as raised:
        run(tmp_path, tmp_path / "run", ScriptedBackend(str.upper))
    assert raised.value.reason == "UNSUPPORTED_TASK"
