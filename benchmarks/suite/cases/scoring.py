"""A hundred thousand samples through everything but a model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, interleave, ratio
from benchmarks.suite.inputs import REFERENCE, ROOT, SCORING_REPLICATES, SCORING_SAMPLES
from benchmarks.suite.processes import Failed, environment, tail

PAIRED = 10_000
"""Samples of the pairs. Of the large number, which takes lmms-eval minutes, there is one pair."""


def run(bench: Bench) -> CaseResult:
    """Both engines, with a model that answers at once."""
    counts = (2_000,) if bench.quick else (PAIRED, SCORING_SAMPLES)
    our = {count: Series(OURS, f"{count:,} samples, {SCORING_REPLICATES:,} replicates") for count in counts}
    their = {count: Series(THEIRS, f"{count:,} samples, no replicates") for count in counts}
    scores: dict[tuple[str, int], dict[str, float]] = {}

    def program(system: str, samples: int, *command: str | Path) -> Callable[[], tuple[float, float]]:
        def measured() -> tuple[float, float]:
            wall, cpu, scores[system, samples] = _run(bench.new_folder(), samples, bench.inputs.tasks, *command)
            return wall, cpu

        return measured

    theirs = Path(__file__).parents[1] / "scoring_theirs.py"
    for count in counts:
        runs = [
            (our[count], program(OURS, count, sys.executable, "-m", "benchmarks.suite.scoring_ours")),
            (their[count], program(THEIRS, count, REFERENCE, theirs)),
        ]
        interleave(bench.rounds() if count == counts[0] else 1, runs)
        if scores[OURS, count] != scores[THEIRS, count]:
            raise Failed(f"the scores are {scores[OURS, count]} and {scores[THEIRS, count]}")
    most = counts[-1]
    return CaseResult(
        "scoring",
        "Scoring and statistics",
        "Documents of text: prompts, a canned answer, a regular expression and a choice as filters, the task's own"
        " process_results with two metrics, their aggregation (one is the task's own function), and the log of samples."
        f" Imports and the scan of task files are left out. Ours bootstraps the task's own metric with"
        f" {SCORING_REPLICATES:,} replicates and keeps every answer and sample on disk; lmms-eval computes no interval"
        " for such a metric, and holds everything in memory here. Both must come to the same scores.",
        [series for count in counts for series in (our[count], their[count])],
        [
            ratio(
                f"{count:,} samples: lmms-eval / ours",
                *(their[count], our[count]),
                headline=f"scoring of {count:,} samples, ours with {SCORING_REPLICATES:,} replicates"
                if count == most
                else "",
                why="ours keeps each sample on disk and draws replicates, which lmms-eval does not",
            )
            for count in counts
        ],
        [f"both: {scores[OURS, most]}"],
    )


def _run(folder: Path, samples: int, tasks: Path, *command: str | Path) -> tuple[float, float, dict[str, float]]:
    """Wall and CPU seconds, and the scores."""
    log = folder / "program.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*map(str, command), str(tasks), str(samples), str(folder)],
            check=False,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=ROOT,
            env=environment(folder),
            text=True,
        )
    if done.returncode:
        raise Failed(f"exit status {done.returncode}: {tail(log)}")
    wall, cpu, scores = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu, scores
