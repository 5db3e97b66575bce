"""A response cache, whatever was in it and however often the run is interrupted, never changes a score."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.engine.api import EvaluationCancelled, TaskScore
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationRequest
from lmms_eval_grpc.engine.run.evaluate import evaluate
from lmms_eval_grpc.engine.tasks.task import Task
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.scripted_run import config_for
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

SIZE = 30
UTILS = """
def process_results(doc, results):
    if doc["question"] == "q7":
        raise ValueError("no score for this one")
    return {"right": float(results[0] == doc["answer"]), "length": (doc["question"], len(results[0]))}


def order_sensitive(items):
    value = 0.0
    for question, length in items:
        value = 0.5 * value + length + len(question) / 7
    return value
"""
KEYS = """
    process_results: !function utils.process_results
    metric_list:
      - {metric: right, aggregation: mean, higher_is_better: true}
      - {metric: length, aggregation: !function utils.order_sensitive, higher_is_better: true}
"""


class Reordered(Sequence[GenerationRequest]):
    """``requests`` in another order, each still built when it is asked for."""

    def __init__(self, requests: Sequence[GenerationRequest], order: Sequence[int]) -> None:
        self.requests = requests
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        return self.requests[self.order[index]]


class ShufflingBackend(ScriptedBackend):
    """Answers in an order of its own, as backends that sort by length do."""

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__(lambda text: "x" * (int(text[1:]) % 5), batch_size)
        self.random = random.Random(seed)

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        order = list(range(len(requests)))
        self.random.shuffle(order)
        for batch in super().generate(Reordered(requests, order)):
            yield [replace(answer, index=order[answer.index]) for answer in batch]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("tasks")
    documents = [{"question": f"q{n}", "answer": "x" * (n % 3)} for n in range(SIZE)]
    write_task(folder, KEYS, documents=documents, utils=UTILS)
    return load(folder)


@pytest.fixture(scope="module")
def expected(toy: Task, tmp_path_factory: pytest.TempPathFactory) -> TaskScore:
    backend = ScriptedBackend(ShufflingBackend(1, 0).reply, batch_size=1)
    outcome = evaluate(config_for(Path()), tmp_path_factory.mktemp("run"), Recorder(), tasks=[toy], backend=backend)
    return outcome.tasks[0]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batch_sizes=st.lists(st.integers(3, SIZE + 1), min_size=1, max_size=4),
    stops=st.lists(st.integers(0, SIZE), max_size=2),
    seed=st.integers(0, 2**16),
)
def test_the_cache_changes_no_score_and_no_question_is_asked_twice(
    toy: Task, expected: TaskScore, batch_sizes: list[int], stops: list[int], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = config_for(Path(), root / "cache")
        # Another job has asked some of it.
        backend = ShufflingBackend(batch_sizes[0], seed)
        with suppress(EvaluationCancelled):
            stop = Recorder(cancel_at=stops[0] if stops else 5)
            evaluate(config, root / "other", stop, tasks=[toy], backend=backend)
        asked: list[str] = []
        for attempt, stop_at in enumerate([*stops, None]):
            backend = ShufflingBackend(batch_sizes[attempt % len(batch_sizes)], seed + attempt)
            with suppress(EvaluationCancelled):
                outcome = evaluate(config, root / "run", Recorder(cancel_at=stop_at), tasks=[toy], backend=backend)
            asked += backend.asked
        assert len(asked) == len(set(asked)), "no question was asked twice"
        score = outcome.tasks[0]
        assert score.metrics == expected.metrics
        assert (score.samples_scored, score.samples_errored) == (SIZE - 1, 1)
