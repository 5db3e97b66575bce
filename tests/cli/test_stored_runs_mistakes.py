"""``score``, ``compare`` and ``power`` on small files written by hand: what they take from them, and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.main import main
from tests.support.task_files import QUESTIONS, datasets_cache, write_task

__all__ = ["datasets_cache"]

KEYS = "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]"


def write_run(folder: Path, asked: dict[str, Any]) -> Path:
    """The run of a model that thinks aloud between tags of its own, and is right every time."""
    folder.mkdir()
    lines = [
        {"doc_id": number, "filtered_resps": f"<mull>hm</mull>{document['answer']}", "exact_match": 0.0}
        for number, document in enumerate(QUESTIONS)
    ]
    (folder / "20260101_000000_samples_toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"results": {"toy": {}}, "config": {"model_args": "", "resolved_cli_args": asked}}
    (folder / "20260101_000000_results.json").write_text(json.dumps(results))
    return folder


def rescored(capsys: pytest.CaptureFixture[str], *words: str) -> float:
    assert main(["score", *words, "--json"]) == ExitCode.OK, capsys.readouterr().err
    value: float = json.loads(capsys.readouterr().out)["results"]["toy"]["exact_match,none"]
    return value


def test_scoring_again_cuts_what_the_run_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "tasks", KEYS)
    tags = json.dumps([["<mull>", "</mull>"]])
    where = ("--include_path", str(tmp_path / "tasks"))
    cut, untouched = write_run(tmp_path / "cut", {"reasoning_tags": tags}), write_run(tmp_path / "untouched", {})
    assert rescored(capsys, str(cut), *where) == 1.0
    assert rescored(capsys, str(untouched), *where) == 0.0
    assert rescored(capsys, str(cut), *where, "--reasoning_tags", "none") == 0.0
    assert rescored(capsys, str(untouched), *where, "--reasoning_tags", tags) == 1.0


def test_scores_that_do_not_vary_say_nothing_about_what_can_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(write_run(tmp_path / "run", {}))
    for words, key in ((["compare", run, run], "comparisons"), (["power", run], "plans")):
        assert main([*words, "--plain"]) == ExitCode.OK
        heading, row, *_ = capsys.readouterr().out.splitlines()
        assert row.startswith("toy")
        column = heading.index("MDE")
        assert row[column - 1 : column + len("MDE")].strip() == ""
        assert main([*words, "--json"]) == ExitCode.OK
        (one,) = json.loads(capsys.readouterr().out)[key]
        assert one["minimum_detectable_effect"] is None


def test_a_metric_that_no_run_has_is_named_with_those_that_they_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(write_run(tmp_path / "run", {}))
    assert main(["compare", run, run, "--metric", "acuracy"]) == ExitCode.JOB_FAILED
    told = capsys.readouterr().err
    assert "acuracy" in told
    assert "toy/exact_match,none" in told


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--effect_size", "0"), ("--std_a", "-1"), ("--std_b", "nan"), ("--alpha", "2"), ("--power", "1")],
)
def test_a_wrong_number_is_told_by_its_flag(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", flag, value]) == ExitCode.USAGE
    assert f"error: {flag} must be" in capsys.readouterr().err


def test_two_runs_are_not_scored_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "tasks", KEYS)
    first, second = write_run(tmp_path / "first", {}), write_run(tmp_path / "second", {})
    where = ("--include_path", str(tmp_path / "tasks"))
    assert main(["score", str(first), str(second), *where]) == ExitCode.USAGE
    assert "both answered task toy, document 0; score each run by itself" in capsys.readouterr().err


def test_a_folder_of_tasks_and_any_limit_can_be_analysed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "tasks", KEYS)
    words = ("--power_analysis", "--tasks", str(tmp_path / "tasks"), "--limit", "2.7", "--json")
    assert main(words) == ExitCode.OK, capsys.readouterr().err
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert (plan["of"], plan["documents"]) == ("toy", 2)


def test_a_flag_that_is_no_number_is_told_without_all_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tasks", "toy", "--limit", "abc"]) == ExitCode.USAGE
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "lmms-eval-grpc eval: error: argument --limit: 'abc' is not a number",
        "see lmms-eval-grpc eval --help",
    ]
