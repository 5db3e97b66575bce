"""Tasks that draw from the process's random generators: what they draw follows from the seeds and nothing else.

Many of lmms-eval's tasks shuffle in ``process_docs`` or guess in ``process_results``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationOutcome
from lmms_eval_grpc.engine.run.evaluate import evaluate
from lmms_eval_grpc.engine.scoring.pool import score_samples
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

DOCUMENTS = [{"question": f"q{number}", "answer": f"Q{number}"} for number in range(30)]
UTILS = """
import random

import numpy as np

def process_docs(dataset):
    order = list(range(len(dataset)))
    random.shuffle(order)
    return dataset.select(order).select(np.random.permutation(len(order)))

def process_results(doc, results):
    return {"guess": random.random() + np.random.random()}
"""
SHUFFLE = "process_docs: !function utils.process_docs\n"
GUESS = """
process_results: !function utils.process_results
metric_list: [{metric: guess, aggregation: mean, higher_is_better: true}]
"""


def run(
    config: EvaluationConfig, run_dir: Path, *, batch_size: int = 4, cancel_at: int | None = None
) -> tuple[EvaluationOutcome, list[str]]:
    """The outcome and what was asked, in a process whose generators are anywhere."""
    random.seed()
    numpy.random.seed()
    backend = ScriptedBackend(str.upper, batch_size=batch_size)
    return evaluate(config, run_dir, Recorder(cancel_at=cancel_at), backend=backend), backend.asked


def task(tmp_path: Path, keys: str, name: str = "toy") -> EvaluationConfig:
    folder = tmp_path / "tasks"
    write_task(folder, keys, name=name, documents=DOCUMENTS, utils=UTILS)
    return EvaluationConfig("idefics3", (name,), include_paths=(folder,))


def test_documents_are_shuffled_alike_every_time_whatever_else_is_run(tmp_path: Path) -> None:
    config = task(tmp_path, SHUFFLE)
    task(tmp_path, SHUFFLE, name="other")
    _, first = run(config, tmp_path / "first")
    _, second = run(config, tmp_path / "second")
    assert first == second != [document["question"] for document in DOCUMENTS]
    _, both = run(replace(config, tasks=("other", "toy")), tmp_path / "both")
    assert both[30:] == first
    _, seeded = run(replace(config, seed=(7, 1234, 1234, 1234)), tmp_path / "seeded")
    assert sorted(seeded) == sorted(first) != seeded != first


def test_a_run_that_is_taken_up_asks_the_documents_that_are_left(tmp_path: Path) -> None:
    config = task(tmp_path, SHUFFLE)
    with pytest.raises(EvaluationCancelled):
        run(config, tmp_path / "run", cancel_at=12)
    outcome, asked = run(config, tmp_path / "run")
    assert len(asked) == 18
    assert outcome.tasks[0].metrics[0].value == 1.0


def test_documents_in_an_order_of_chance_are_not_taken_for_those_of_an_earlier_attempt(tmp_path: Path) -> None:
    config = replace(task(tmp_path, SHUFFLE), seed=(None, None, 1234, 1234))
    with pytest.raises(EvaluationCancelled):
        run(config, tmp_path / "run", cancel_at=12)
    outcome, asked = run(config, tmp_path / "run")
    assert len(asked) == 30
    assert outcome.tasks[0].metrics[0].value == 1.0


def test_a_guess_depends_on_the_document_and_not_on_what_was_scored_before(tmp_path: Path) -> None:
    toy = load(task(tmp_path, GUESS).include_paths[0])

    def guesses(doc_ids: Sequence[int]) -> dict[int, float]:
        random.seed()
        scored = score_samples(toy, ((doc_id, ["a"]) for doc_id in doc_ids))
        return {doc_id: outcome[0].scores["guess"] for doc_id, outcome in scored if isinstance(outcome, tuple)}

    forward = guesses(range(30))
    assert len(set(forward.values())) == 30
    assert guesses(range(29, -1, -1)) == forward
    assert guesses([7]) == {7: forward[7]}


def test_guesses_depend_neither_on_batches_nor_on_attempts(tmp_path: Path) -> None:
    config = task(tmp_path, GUESS)
    scores = [run(config, tmp_path / str(size), batch_size=size)[0].tasks[0].metrics for size in (1, 4, 30)]
    with pytest.raises(EvaluationCancelled):
        run(config, tmp_path / "run", cancel_at=12)
    scores.append(run(config, tmp_path / "run")[0].tasks[0].metrics)
    assert scores[1:] == scores[:-1]
    part = run(replace(config, offset=10), tmp_path / "part")[0]
    assert part.tasks[0].metrics[0].value != scores[0][0].value
