"""The bookkeeping of the benchmarks: ratios, targets, the table, the plots. scripts/benchmark runs the cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.suite import report
from benchmarks.suite.cases import CASES
from benchmarks.suite.figures import LOOP, OURS, THEIRS, CaseResult, Comparison, Series, interleave, ratio
from benchmarks.suite.inputs import ROOT

FACTS = {"date": "2026-01-02", "cpus": 2, "processor": "some processor", "memory_bytes": 24 << 30}


def result() -> CaseResult:
    slow = Series(THEIRS, "whole", values=[10.0, 30.0, 20.0], cpu=[9.0, 29.0, 19.0])
    fast = Series(OURS, "whole", values=[1.0, 2.0, 4.0])
    loop = Series(LOOP, "generation", values=[1.5], note="batch size 8")
    size = Series(OURS, "memory", "MiB", [300.0])
    comparisons = [
        ratio("whole: theirs / ours", slow, fast, at_least=12),
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
    text = report.table(report.read(tmp_path, ["example", "never run"]))
    assert "| whole: theirs / ours | 10 × | 5 – 15 | ≥ 12 | **missed** |" in text
    assert "| ready | 0.4 s |  | ≤ 1 | met |" in text
    assert "| generation (batch size 8) | hand-written loop | 1.5 s | 1.5 – 1.5 |  | 1 |" in text
    assert "| whole | lmms-eval | 20 s | 10 – 30 | 19 | 3 |" in text
    assert "2 cores (some processor), 24 GiB" in text
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


def test_kept_figures_are_of_cases_that_exist() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*/README.md"):
        if "# Beside lmms-eval" not in path.read_text():
            continue
        cases = report.read(path.parent, list(CASES))
        assert cases, path
        assert path.read_text() == report.table(cases), f"{path} is not what its JSON files say: run scripts/benchmark"
