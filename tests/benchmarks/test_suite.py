"""The bookkeeping of the benchmarks: ratios, targets, the table, the plots. scripts/benchmark runs the cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.suite import readme, report
from benchmarks.suite.cases import CASES
from benchmarks.suite.figures import LOOP, OURS, THEIRS, CaseResult, Comparison, Series, interleave, ratio
from benchmarks.suite.inputs import ROOT
from benchmarks.suite.outcome import Outcome, agree, same_prompts
from benchmarks.suite.processes import Failed, environment

FACTS = {
    "date": "2026-01-02",
    "commit": "abc1234",
    "gpu": "",
    "cpus": 2,
    "processor": "some processor",
    "memory_bytes": 24 << 30,
    "lmms_eval_versions": {"lmms-eval": "0.7.3"},
}


def result() -> CaseResult:
    slow = Series(THEIRS, "whole", values=[10.0, 30.0, 20.0], cpu=[9.0, 29.0, 19.0])
    fast = Series(OURS, "whole", values=[1.0, 2.0, 4.0])
    loop = Series(LOOP, "generation", values=[1.5], note="batch size 8")
    size = Series(OURS, "memory", "MiB", [300.0])
    comparisons = [
        ratio("whole: theirs / ours", slow, fast, at_least=12, headline="a whole job", why="it is an example"),
        ratio("whole: the loop / ours", loop, fast),
        Comparison("ready", 0.4, None, "s", at_most=1),
    ]
    return CaseResult("example", "An example", "What is compared.", [slow, fast, loop, size], comparisons, ["a note"])


def test_a_ratio_is_of_the_medians_and_its_spread_of_the_rounds() -> None:
    compared = result().comparisons[0]
    assert compared.value == 10.0
    assert compared.spread == (5.0, 15.0)
    assert compared.met is False
    assert compared.target == "≥ 12"


def test_series_of_different_lengths_have_no_spread() -> None:
    assert ratio("", Series(THEIRS, "", values=[4.0]), Series(OURS, "", values=[1.0, 3.0])).spread is None


def test_all_take_turns_and_the_order_turns_round() -> None:
    order: list[str] = []

    def run(name: str) -> tuple[float, float | None]:
        order.append(name)
        return float(len(order)), None if name == "b" else 0.5

    first, second = Series(OURS, "a"), Series(THEIRS, "b")
    interleave(3, [(first, lambda: run("a")), (second, lambda: run("b"))])
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert first.values == [1.0, 4.0, 5.0]
    assert first.cpu == [0.5] * 3
    assert second.cpu == []


def test_the_table_tells_targets_spread_load_and_machine(tmp_path: Path) -> None:
    report.write(tmp_path, FACTS, result())
    text = report.table(report.read(tmp_path, ["example", "never run"]), ["never run"])
    assert "| whole: theirs / ours | 10 × | ≥ 12 | **missed** | example |\n| ready |" in text
    assert "Not run yet: never run." in text
    assert "| whole: theirs / ours | 10 × | 5 – 15 | 3 / 3 | ≥ 12 | **missed** |" in text
    assert "| ready | 0.4 s |  |  | ≤ 1 | met |" in text
    assert "| generation (batch size 8) | hand-written loop | 1.5 s | 1.5 – 1.5 |  | 1 |" in text
    assert "| whole | lmms-eval | 20 s | 10 – 30 | 19 | 3 |" in text
    assert "2026-01-02, 2 cores (some processor), 24 GiB, no GPU, lmms-eval 0.7.3, our commit abc1234;" in text
    assert "- a note" in text


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    report.write(tmp_path, FACTS, result())
    report.plot(tmp_path, report.read(tmp_path, ["example"])[0])
    assert (tmp_path / "example.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_case_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.suite", "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no case 'nonsense'; there are turnaround" in done.stderr


def test_the_readme_tells_headlines_losses_and_what_was_not_measured(tmp_path: Path) -> None:
    report.write(tmp_path, FACTS, result())
    text = readme.section(report.read(tmp_path, ["example"]), ["never run"], "the/folder")
    assert "Taken 2026-01-02, 2 cores (some processor), 24 GiB, no GPU, lmms-eval 0.7.3, our commit abc1234. [" in text
    assert "(the/folder/README.md)" in text
    assert "| a whole job | 2 s | 20 s | 10 × | 3 / 3 | ≥ 12 ×: **missed** |" in text
    assert "Not measured yet: never run." in text
    lost = text.partition("Where we do not win:")[2]
    assert (
        "- whole: theirs / ours, 10 ×, where the target is ≥ 12 (here 2 s, lmms-eval 20 s): it is an example." in lost
    )
    assert lost.count("\n- ") == 1  # That the loop is quicker than a whole job is no loss.


def test_the_readme_tells_which_code_and_machine_each_case_was_taken_with(tmp_path: Path) -> None:
    later = CaseResult("later", "Later", "What is compared.", quick=True)
    report.write(tmp_path, FACTS, result())
    report.write(tmp_path, FACTS | {"commit": "def5678 with changes", "gpu": "some GPU"}, later)
    text = readme.section(report.read(tmp_path, ["example", "later"]), [], "the/folder")
    assert (
        "Taken example: 2026-01-02, 2 cores (some processor), 24 GiB, no GPU, lmms-eval 0.7.3, our commit abc1234;"
        in text
    )
    assert "; later: 2026-01-02, 2 cores (some processor), 24 GiB, its some GPU unused, lmms-eval 0.7.3," in text
    assert "our commit def5678 with changes, a quick run of few rounds. [" in text


def test_figures_of_a_case_that_fails_are_removed(tmp_path: Path) -> None:
    report.write(tmp_path, FACTS, result())
    report.plot(tmp_path, report.read(tmp_path, ["example"])[0])
    report.forget(tmp_path, "example")
    assert not list(tmp_path.iterdir())
    report.forget(tmp_path, "never run")


def test_measured_programs_see_neither_our_settings_nor_our_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMMS_EVAL_GRPC_PORT", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", "/somewhere")
    variables = environment(tmp_path, MORE="1")
    assert not {"LMMS_EVAL_GRPC_PORT", "HF_DATASETS_CACHE", "PYTHONPATH"} & variables.keys()
    assert variables["XDG_CACHE_HOME"].startswith(str(tmp_path))
    assert variables["MORE"] == "1"


def test_what_lmms_eval_is_better_in_is_a_loss_without_a_target() -> None:
    ours, theirs = Series(OURS, "a", values=[2.0]), Series(THEIRS, "a", values=[1.0])
    assert ratio("", theirs, ours).lost
    assert ratio("", ours, theirs).lost
    assert not ratio("", ours, Series(THEIRS, "a", values=[3.0])).lost


def test_a_readme_without_figures_says_how_to_take_them() -> None:
    text = f"before\n{readme.BEGIN}benchmarks/results/nowhere -->\nold\n{readme.END}\nafter\n"
    new = readme.written(text)
    assert "old" not in new
    assert "No figures are kept yet; `scripts/benchmark` takes them." in new
    assert new.startswith("before\n")
    assert new.endswith(f"{readme.END}\nafter\n")
    assert readme.written(new) == new


def test_the_readme_is_what_the_kept_figures_say() -> None:
    text = readme.README.read_text()
    assert readme.written(text) == text, "run python -m benchmarks.suite.readme"


def test_kept_tables_are_what_the_kept_figures_say() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*/suite/README.md"):
        cases = report.read(path.parent, list(CASES))
        missing = [name for name in CASES if name not in {case["name"] for case in cases}]
        assert cases, path
        assert path.read_text() == report.table(cases, missing), f"{path} is not what its JSON files say"


def outcome(scores: dict[str, float], **answers: str) -> Outcome:
    return Outcome({("task", number): answer for number, answer in enumerate(answers.values())}, scores)


def test_systems_that_answered_alike_agree() -> None:
    assert agree(outcome({"task": 0.5}, a="1", b="2"), outcome({"task": 0.5}, a="1", b="2"), 2).startswith("2 of 2")


@pytest.mark.parametrize(
    ("other", "expected", "complaint"),
    [
        (outcome({"task": 0.5}, a="1", b="3"), 2, "only 1 of 2 answers"),
        (outcome({"task": 0.5}, a="1"), 2, "other documents"),
        (outcome({"task": 0.5}, a="1", b="2"), 3, "other documents"),
        (outcome({"task": 0.4}, a="1", b="2"), 2, "but the scores are"),
    ],
)
def test_systems_that_did_not_do_the_same_are_not_compared(other: Outcome, expected: int, complaint: str) -> None:
    with pytest.raises(Failed, match=complaint):
        agree(outcome({"task": 0.5}, a="1", b="2"), other, expected)


def test_a_loop_that_read_other_prompts_than_ours_is_not_compared() -> None:
    same_prompts("digits", [6000, 6000], 6000)
    with pytest.raises(Failed, match="digits: our prompts have 6001 tokens and the loop's 6000"):
        same_prompts("digits", [6000, 6001], 6000)
