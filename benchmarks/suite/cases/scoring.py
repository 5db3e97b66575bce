"""A hundred thousand samples through everything but a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, interleave, ratio
from benchmarks.suite.inputs import REFERENCE, ROOT, SCORING_REPLICATES, SCORING_SAMPLES
from benchmarks.suite.processes import environment


def run(bench: Bench) -> CaseResult:
    """Both engines, with a model that answers at once."""
    samples = 5_000 if bench.quick else SCORING_SAMPLES
    our = Series(OURS, f"{samples:,} samples, {SCORING_REPLICATES:,} replicates")
    their = Series(THEIRS, f"{samples:,} samples, no replicates")
    theirs = Path(__file__).parents[1] / "scoring_theirs.py"

    def program(*command: str | Path) -> tuple[float, float]:
        folder = bench.new_folder()
        done = subprocess.run(
            [*map(str, command), str(bench.inputs.tasks), str(samples), str(folder)],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment(folder),
            text=True,
        )
        wall, cpu = json.loads(done.stdout.splitlines()[-1])
        return wall, cpu

    interleave(
        bench.rounds(5, 1),
        [
            (our, lambda: program(sys.executable, "-m", "benchmarks.suite.scoring_ours")),
            (their, lambda: program(REFERENCE, theirs)),
        ],
    )
    return CaseResult(
        "scoring",
        "Scoring and statistics",
        f"{samples:,} documents of text: prompts, a canned answer, a regular expression and a choice as filters, the"
        " task's own process_results with two metrics, their aggregation (one is the task's own function), and the log"
        f" of samples. Imports and the scan of task files are left out. Ours bootstraps the task's own metric with"
        f" {SCORING_REPLICATES:,} replicates and keeps every answer and sample on disk; lmms-eval computes no interval"
        " for such a metric, and holds everything in memory here.",
        [our, their],
        [ratio("lmms-eval / ours", their, our)],
    )
