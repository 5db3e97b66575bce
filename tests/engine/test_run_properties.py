"""Batch size, order, sharding and interruptions never change a deterministic score."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationOutcome
from lmms_eval_grpc.engine.record.rescore import rescore
from lmms_eval_grpc.engine.run.evaluate import RUN_LOG, SAMPLES, evaluate
from lmms_eval_grpc.engine.run.log import read_sound_lines
from lmms_eval_grpc.engine.tasks.load import LoadedTasks, load
from tests.support.backends import HashingBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache
from tests.support.task_kinds import DOCUMENTS, GROUP, KINDS, write_all

__all__ = ["datasets_cache"]

backends = st.builds(HashingBackend, batch_size=st.integers(1, 40), seed=st.integers(0, 999))


def few(examples: int) -> Callable[[Any], Any]:
    """Each example is an evaluation with its files, so there are not many."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )


@dataclass(frozen=True, repr=False)
class Prepared:
    """Tasks of every kind, loaded once, and what they score when nothing disturbs the run."""

    config: EvaluationConfig
    loaded: LoadedTasks
    whole: EvaluationOutcome
    whole_dir: Path
    new_folder: Callable[[], Path]

    def run(self, folder: Path, backend: HashingBackend, reporter: Recorder | None = None, **changes: Any) -> Any:
        return evaluate(
            replace(self.config, **changes),
            folder,
            reporter or Recorder(),
            tasks=self.loaded.tasks,
            groups=self.loaded.groups,
            backend=backend,
        )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("tasks")
    write_all(folder)
    config = EvaluationConfig("hashing", (GROUP,), include_paths=(folder,))
    loaded = load(config)
    whole_dir = tmp_path_factory.mktemp("whole")
    whole = evaluate(
        config, whole_dir, Recorder(), tasks=loaded.tasks, groups=loaded.groups, backend=HashingBackend(batch_size=1)
    )
    return Prepared(config, loaded, whole, whole_dir, lambda: tmp_path_factory.mktemp("run"))


def scores_of(outcome: EvaluationOutcome) -> Any:
    """Everything that was scored: metrics with their errors and intervals, and groups; without times."""
    return repr(([replace(task, seconds=0) for task in outcome.tasks], outcome.groups))


def samples_in(folder: Path) -> dict[tuple[str, int, str], Any]:
    lines = list(read_sound_lines(folder / SAMPLES)[1])
    found = {(line["task"], line["doc_id"], line["filter"]): line for line in lines}
    assert len(found) == len(lines)
    return found


def answers_in(log: Path) -> list[dict[str, Any]]:
    return [line for line in read_sound_lines(log)[1] if line["kind"] == "answer"]


def requests_of(answers: list[dict[str, Any]]) -> int:
    """How many requests it took to get these answers: one each, or one per round."""
    return sum(len(line.get("rounds") or [1]) for line in answers if line["task"] != "agent")


def asked(backend: HashingBackend) -> int:
    """Requests that the backend was given, those of the agent left out: an agent's answer does not tell its steps."""
    return sum("begins" not in text and "after" not in text for text in backend.asked)


def test_the_undisturbed_run_is_worth_comparing_with(prepared: Prepared) -> None:
    """Scores of all kinds that are neither 0 nor 1, groups that aggregate, and all filters."""
    assert [task.task for task in prepared.whole.tasks] == [
        "generation",
        "choice",
        "rounds",
        "agent",
        "likelihood",
        "examples",
    ]
    values = {
        (task.task, metric.name, metric.filter): metric.value
        for task in prepared.whole.tasks
        for metric in task.metrics
    }
    assert {key[0] for key, value in values.items() if value not in (0, 1)} == set(KINDS)
    assert {key[2] for key in values if key[0] == "generation"} == {"first", "voted", "vowel"}
    assert [group.group for group in prepared.whole.groups if group.metrics] == [GROUP, "asked_in_rounds"]
    assert len(samples_in(prepared.whole_dir)) == len(DOCUMENTS) * (len(KINDS) + 2)


@few(12)
@given(backend=backends)
def test_neither_batch_size_nor_order_changes_a_score(prepared: Prepared, backend: HashingBackend) -> None:
    folder = prepared.new_folder()
    assert scores_of(prepared.run(folder, backend)) == scores_of(prepared.whole)
    assert samples_in(folder) == samples_in(prepared.whole_dir)


@few(8)
@given(cuts=st.sets(st.integers(1, len(DOCUMENTS) - 1), max_size=4), backend=backends)
def test_shards_together_are_the_whole(prepared: Prepared, cuts: set[int], backend: HashingBackend) -> None:
    """Slices by offset and limit, each evaluated by itself: the samples of all of them, scored together."""
    folder = prepared.new_folder()
    bounds = [0, *sorted(cuts), len(DOCUMENTS)]
    found: dict[tuple[str, int, str], Any] = {}
    for start, end in itertools.pairwise(bounds):
        outcome = prepared.run(folder / str(start), backend, offset=start, limit=end - start)
        assert {task.samples_scored for task in outcome.tasks} == {end - start}
        shard = samples_in(folder / str(start))
        assert not shard.keys() & found.keys()
        found |= shard
    assert found == samples_in(prepared.whole_dir)
    together = rescore(prepared.config, [folder / str(start) / SAMPLES for start in bounds[:-1]], folder / "together")
    assert scores_of(together) == scores_of(prepared.whole)


@few(10)
@given(stops=st.lists(st.integers(1, 30 * len(KINDS)), max_size=3), attempts=st.lists(backends, min_size=4, max_size=4))
def test_interruptions_change_nothing_and_no_question_is_asked_twice(
    prepared: Prepared, stops: list[int], attempts: list[HashingBackend]
) -> None:
    """Stopped after so many samples, again and again, each attempt with batches of its own."""
    folder = prepared.new_folder()
    for stop, backend in zip(sorted(stops), attempts, strict=False):
        try:
            prepared.run(folder, backend, Recorder(cancel_at=stop))
        except EvaluationCancelled:
            continue
    kept = answers_in(folder / RUN_LOG) if stops else []
    last = attempts[-1]
    outcome = prepared.run(folder, last)
    assert asked(last) == requests_of(answers_in(prepared.whole_dir / RUN_LOG)) - requests_of(kept)
    assert scores_of(outcome) == scores_of(prepared.whole)
    assert samples_in(folder) == samples_in(prepared.whole_dir)


@few(15)
@given(share=st.floats(0, 1), samples_share=st.floats(0, 1), backend=backends)
def test_files_torn_at_any_byte_resume_with_what_is_left(
    prepared: Prepared, share: float, samples_share: float, backend: HashingBackend
) -> None:
    """The run log and the samples of a finished run, each cut anywhere behind the log's first line, as a crash does."""
    folder = prepared.new_folder()
    log = (prepared.whole_dir / RUN_LOG).read_bytes()
    first = log.index(b"\n") + 1
    (folder / RUN_LOG).write_bytes(log[: first + math.floor(share * (len(log) - first))])
    samples = (prepared.whole_dir / SAMPLES).read_bytes()
    (folder / SAMPLES).write_bytes(samples[: math.floor(samples_share * len(samples))])
    kept = answers_in(folder / RUN_LOG)

    outcome = prepared.run(folder, backend)

    assert asked(backend) == requests_of(answers_in(prepared.whole_dir / RUN_LOG)) - requests_of(kept)
    assert scores_of(outcome) == scores_of(prepared.whole)
    assert samples_in(folder) == samples_in(prepared.whole_dir)
