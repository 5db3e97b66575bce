"""15. Crash: kill -9 after m responses; the resumed run makes exactly N - m calls and yields identical scores."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.run.evaluate import RUN_LOG, SAMPLES
from lmms_eval_grpc.engine.run.log import read_sound_lines
from tests.support.announced_run import Attempt, attempt
from tests.support.task_files import datasets_cache
from tests.support.task_kinds import write_all

__all__ = ["datasets_cache"]


def answers(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_sound_lines(run_dir / RUN_LOG)[1] if line["kind"] == "answer"]


def samples(run_dir: Path) -> dict[tuple[str, int, str], Any]:
    """The scored samples by task, document and filter; asserts that none is there twice."""
    lines = list(read_sound_lines(run_dir / SAMPLES)[1])
    found = {(line["task"], line["doc_id"], line["filter"]): line for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_all(folder)
    return folder


def settings(folder: Path, *names: str) -> dict[str, Any]:
    return {"model": "hashing", "tasks": names, "include_paths": [str(folder)], "batch_size": 4}


@pytest.fixture(scope="module")
def undisturbed(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Attempt, Path]:
    """All three tasks in one go, and the folder of that run."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    return attempt(settings(tasks, "generation", "choice", "rounds"), run_dir, step=False), run_dir


def after_call(number: int) -> Callable[[Attempt], bool]:
    return lambda seen: len(seen.calls) > number


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_again_and_again_makes_every_call_once(
    seed: int, tasks: Path, undisturbed: tuple[Attempt, Path], tmp_path: Path
) -> None:
    """Killed while a call is under way, twice over; the tasks have 60, 90 and 30 requests or conversations."""
    whole, whole_dir = undisturbed
    draw = random.Random(seed)
    config = settings(tasks, "generation", "choice", "rounds")
    known = 0
    for _ in range(2):
        number = draw.randrange(1, 12)
        killed = attempt(config, tmp_path / "run", kill=after_call(number))
        assert killed.results is None
        assert len(answers(tmp_path / "run")) >= known
        known = len(answers(tmp_path / "run"))
    kept = answers(tmp_path / "run")
    assert 0 < known < 60 + 90 + 30

    resumed = attempt(config, tmp_path / "run", step=False)

    calls_kept = sum(len(line.get("rounds") or [1]) for line in kept)
    assert resumed.requests == whole.requests - calls_kept
    assert len(answers(tmp_path / "run")) == 60 + 90 + 30, "each question has one answer"
    assert resumed.results == whole.results
    assert samples(tmp_path / "run") == samples(whole_dir)


def test_a_run_that_is_killed_at_no_chosen_moment_resumes_as_well(
    tasks: Path, undisturbed: tuple[Attempt, Path], tmp_path: Path
) -> None:
    """The process does not wait here, so the signal may fall into a write."""
    _, whole_dir = undisturbed
    config = settings(tasks, "generation")
    attempt(config, tmp_path / "run", kill=after_call(5), step=False)
    left = 60 - len(answers(tmp_path / "run"))

    resumed = attempt(config, tmp_path / "run", step=False)

    assert resumed.requests == left
    assert samples(tmp_path / "run") == {key: row for key, row in samples(whole_dir).items() if key[0] == "generation"}


@pytest.mark.slow
def test_two_hundred_digits_of_a_real_model(trained: dict[int, Path], tmp_path: Path) -> None:
    """A real checkpoint in a real process, killed in the middle of a call of its ``generate``."""
    config = {
        "model": "idefics3",
        "model_args": {"pretrained": str(trained[100])},
        "tasks": ["handwritten_digits"],
        "limit": 200,
        "batch_size": 8,
    }
    killed = attempt(config, tmp_path / "run", kill=after_call(random.Random(200).randrange(3, 22)))
    kept = answers(tmp_path / "run")
    assert 0 < len(kept) < 200
    assert killed.requests - killed.calls[-1] == len(kept), "every answered call is kept, the last had no answer yet"

    resumed = attempt(config, tmp_path / "run", step=False)

    assert resumed.requests == 200 - len(kept)
    assert len(answers(tmp_path / "run")) == 200
    undisturbed = attempt(config, tmp_path / "undisturbed", step=False)
    assert undisturbed.requests == 200
    assert resumed.results == undisturbed.results
    assert resumed.results["handwritten_digits"]["exact_match,none"] > 0
    assert samples(tmp_path / "run") == samples(tmp_path / "undisturbed")
