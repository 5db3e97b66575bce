"""A training run that submits twelve checkpoints, each evaluated on the same two tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, interleave, ratio
from benchmarks.suite.inputs import ROOT, SECOND_TASK, TASK, make_checkpoints
from benchmarks.suite.processes import environment

STEPS = 40
"""Training steps before each checkpoint."""


def run(bench: Bench) -> CaseResult:
    """Ours and lmms-eval's server, and the same training without anybody to submit to."""
    count = 3 if bench.quick else 12
    checkpoints = bench.new_folder()
    make_checkpoints(checkpoints, count)
    wait = Series(OURS, "from the last submission to the last result")
    their_wait = Series(THEIRS, wait.quantity)
    step = Series(OURS, "training step, submission included", "ms")
    their_step = Series(THEIRS, step.quantity, "ms")
    alone = Series("nobody", "training step", "ms")
    idle = Series(OURS, "share of that time in which the device generates nothing", "%")
    folder = bench.new_folder()

    def train(system: str, address: str, steps: Series, waits: Series | None = None) -> tuple[float, None]:
        told = _train(bench.new_folder(), system, address, checkpoints)
        if waits is None:
            return told["step_ms"], None
        steps.values.append(told["step_ms"])
        return told["finished"] - told["submitted"], None

    with ours.server(bench.inputs, folder / "ours") as server, theirs.server(bench.inputs, folder) as their_server:
        server.wait_warm()
        server.wait(server.submit([TASK, SECOND_TASK]))

        def our_run() -> tuple[float, None]:
            before = {job.job_id for job in server.client.list_jobs()}
            seconds, _ = train("ours", server.address, step, wait)
            jobs = [server.client.get(job.job_id) for job in server.client.list_jobs() if job.job_id not in before]
            idle.values.append(100 * _idle_share(jobs))
            return seconds, None

        interleave(
            bench.rounds(5, 1),
            [
                (wait, our_run),
                (alone, lambda: train("nobody", "", alone)),
                (their_wait, lambda: train("theirs", str(their_server.port), their_step, their_wait)),
            ],
        )
    return CaseResult(
        "training_run",
        f"A training run with {count} checkpoints",
        f"A trainer takes {STEPS} steps of some milliseconds, submits a checkpoint with two tasks of 300 samples, and"
        f" goes on; {count} times. The servers and the trainer share the machine, one thread each, so that a step takes"
        " longer beside either of them than alone.",
        [wait, their_wait, idle, step, their_step, alone],
        [
            ratio("from the last submission to the last result: lmms-eval / ours", their_wait, wait),
            ratio("training step: with ours / alone", step, alone),
            ratio("training step: with lmms-eval / alone", their_step, alone),
        ],
    )


def _idle_share(jobs: list[object]) -> float:
    """Of the time from the first job's start to the last one's end."""
    begin = min(job.start_time.ToNanoseconds() for job in jobs)  # type: ignore[attr-defined]
    end = max(job.end_time.ToNanoseconds() for job in jobs)  # type: ignore[attr-defined]
    busy = sum(
        job.evaluation_result.throughput.stage_elapsed["generating"].ToNanoseconds()  # type: ignore[attr-defined]
        for job in jobs
    )
    return max(0.0, 1 - busy / (end - begin))


def _train(folder: Path, system: str, address: str, checkpoints: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.suite.trainer", system, address, str(checkpoints), str(STEPS)]
    done = subprocess.run(
        [*command, f"{TASK},{SECOND_TASK}"],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(folder),
        text=True,
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told
