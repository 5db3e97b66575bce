"""``score``, ``compare`` and ``power`` on what real evaluations of the digits left."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from tests.cli.conftest import TASK, command, environment, with_own_caches

LIMIT = 60


@pytest.fixture(scope="module")
def manners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return with_own_caches(tmp_path_factory.mktemp("caches"))


def run(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), env=env, capture_output=True, text=True, timeout=240, check=False)


def document(env: dict[str, str], *words: str) -> Any:
    done = run(env, *words, "--json")
    assert done.returncode == ExitCode.OK, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(
    manners: dict[str, str], trained: dict[int, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Folders of two evaluations: of a model that cannot read digits, and of one that can."""
    folders = {}
    for step in (min(trained), max(trained)):
        folders[step] = tmp_path_factory.mktemp(f"step-{step}")
        done = run(
            manners,
            *("eval", "--model", "idefics3", "--model_args", f"pretrained={trained[step]}", "--tasks", TASK),
            *("--limit", str(LIMIT), "--log_samples", "--output_path", str(folders[step]), "--batch_size", "auto"),
        )
        assert done.returncode == ExitCode.OK, done.stderr
    return folders


def results(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("*_results.json")
    return dict(json.loads(path.read_text()))


def test_scoring_again_gives_the_same_scores(manners: dict[str, str], runs: dict[int, Path], tmp_path: Path) -> None:
    run_dir = runs[max(runs)]
    done = run(manners, "score", str(run_dir), "--output_path", str(tmp_path / "again"))
    assert done.returncode == ExitCode.OK, done.stderr
    assert TASK in done.stdout
    before, after = results(run_dir), results(tmp_path / "again")
    assert after["results"] == before["results"]
    assert after["model_source"] == "idefics3"
    assert after["model_name_sanitized"] == before["model_name_sanitized"]
    assert after["manifest"]["rescored_from"]


def test_a_samples_file_is_scored_without_its_results(
    manners: dict[str, str], runs: dict[int, Path], tmp_path: Path
) -> None:
    run_dir = runs[max(runs)]
    (samples,) = run_dir.rglob("*_samples_*.jsonl")
    lines = samples.read_text().splitlines()[:10]
    answers = [{**json.loads(line), "filtered_resps": "no digit", "exact_match": 1.0} for line in lines]
    for answer in answers:
        answer.pop("resps", None)
    copy = tmp_path / samples.name
    copy.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    scored = document(manners, "score", str(copy))
    assert scored["results"][TASK]["exact_match,none"] == 0.0, "the scores in the file are not believed"
    assert scored["n-samples"][TASK]["effective"] == 10


def test_what_cannot_be_scored_is_said(manners: dict[str, str], runs: dict[int, Path], tmp_path: Path) -> None:
    assert run(manners, "score", str(tmp_path / "nothing")).returncode == ExitCode.USAGE
    assert run(manners, "score", str(tmp_path)).returncode == ExitCode.USAGE
    unknown = run(manners, "score", str(runs[max(runs)]), "--tasks", "handwriten_digits")
    assert unknown.returncode == ExitCode.USAGE
    assert f"did you mean '{TASK}'" in unknown.stderr
    other = run(manners, "score", str(runs[max(runs)]), "--tasks", "ai2d")
    assert other.returncode == ExitCode.JOB_FAILED
    broken = tmp_path / "20260101_000000_samples_toy.jsonl"
    broken.write_text("{")
    failed = run(manners, "compare", str(broken), str(broken))
    assert failed.returncode == ExitCode.JOB_FAILED
    assert "RECORD_UNREADABLE" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "Traceback" in run(manners, "compare", str(broken), str(broken), "--verbosity", "DEBUG").stderr


def test_the_better_run_is_found_whichever_comes_first(manners: dict[str, str], runs: dict[int, Path]) -> None:
    worse, better = str(runs[min(runs)]), str(runs[max(runs)])
    done = run(manners, "compare", worse, better)
    assert done.returncode == ExitCode.OK, done.stderr
    assert "second is better" in done.stdout
    (one,) = document(manners, "compare", better, worse, "--metric", "exact_match")["comparisons"]
    assert one["verdict"] == "first"
    assert one["documents"] == LIMIT
    assert one["difference"] == pytest.approx(one["mean_first"] - one["mean_second"])
    assert one["mean_first"] == results(runs[max(runs)])["results"][TASK]["exact_match,none"]


def test_a_run_and_itself_are_not_told_apart(manners: dict[str, str], runs: dict[int, Path]) -> None:
    same = str(runs[max(runs)])
    done = run(manners, "compare", same, same)
    assert done.returncode == ExitCode.OK
    assert "not enough evidence" in done.stdout
    assert run(manners, "compare", same, same, "--alpha", "2").returncode == ExitCode.USAGE


def test_power_by_the_formula() -> None:
    env = environment()
    (one,) = document(env, "power", "--effect_size", "0.03")["plans"]
    assert one["required_documents"] == 2181  # ((1.959964 + 0.841621) * 0.5 / 0.03)^2, rounded up
    (one,) = document(env, "power", "--std_a", "0.4", "--std_b", "0.3", "--correlation", "0", "--documents", "400")[
        "plans"
    ]
    assert one["minimum_detectable_effect"] == pytest.approx(2.801585 * 0.5 / 20, rel=1e-6)
    assert one["achieved_power"] == pytest.approx(0.22364, abs=2e-5)
    for words in (("--alpha", "1.5"), ("--effect_size", "0"), ("--std_a", "-1")):
        wrong = run(env, "power", *words)
        assert wrong.returncode == ExitCode.USAGE
        assert "Traceback" not in wrong.stderr


def test_power_from_samples_and_from_tasks(manners: dict[str, str], runs: dict[int, Path]) -> None:
    worse, better = str(runs[min(runs)]), str(runs[max(runs)])
    share = results(runs[max(runs)])["results"][TASK]["exact_match,none"]
    (one,) = document(manners, "power", better)["plans"]
    assert one["documents"] == LIMIT
    deviation = math.sqrt(share * (1 - share) * LIMIT / (LIMIT - 1))
    assert one["design"]["deviation_first"] == pytest.approx(deviation)
    assert one["design"]["correlation"] == 0.5
    (both,) = document(manners, "power", worse, better, "--correlation", "0.25")["plans"]
    assert both["design"]["deviation_second"] == pytest.approx(deviation)
    assert both["design"]["correlation"] == 0.25
    (task,) = document(manners, "power", "--tasks", TASK)["plans"]
    assert (task["of"], task["documents"]) == (TASK, 360)
    (asked,) = document(manners, "eval", "--power_analysis", "--tasks", TASK, "--limit", "100")["plans"]
    assert asked["documents"] == 100
