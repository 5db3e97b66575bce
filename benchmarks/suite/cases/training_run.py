"""A training run that submits twelve checkpoints, each evaluated on the same two tasks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import THEIR_BATCH, Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, interleave, ratio
from benchmarks.suite.inputs import ROOT, SECOND_TASK, TASK, make_checkpoints
from benchmarks.suite.outcome import agree
from benchmarks.suite.processes import Failed, environment, on_core

STEPS = 40
"""Training steps before each checkpoint."""
WARM_UP = 8
"""Samples of each task in a job of either server before the first run."""


def run(bench: Bench) -> CaseResult:
    """Ours and lmms-eval's server, and the same training without anybody to submit to."""
    count, samples = (2, 50) if bench.quick else (12, 100)
    checkpoints = bench.new_folder()
    make_checkpoints(checkpoints, count)
    wait = Series(OURS, "from the last submission to the last result")
    their_wait = Series(THEIRS, wait.quantity)
    step = Series(OURS, "training step, submission included", "ms")
    their_step = Series(THEIRS, step.quantity, "ms")
    alone = Series("nobody", "training step", "ms")
    idle = Series(
        OURS, "share of the time from the first job's start to the last one's end in which nothing is generated", "%"
    )
    folder = bench.new_folder()

    last_jobs: dict[str, str] = {}

    def train(system: str, server: ours.Server | theirs.Server, steps: Series, **options: int) -> tuple[float, float]:
        address = server.address if isinstance(server, ours.Server) else str(server.port)
        cpu = server.cpu()
        told = _train(bench.new_folder(), system, address, checkpoints, limit=samples, **options)
        steps.values.append(told["step_ms"])
        last_jobs[system] = told["jobs"][-1]
        return told["finished"] - told["submitted"], server.cpu() - cpu

    # A core of its own is what a GPU of its own is elsewhere.
    with contextlib.ExitStack() as servers:
        with on_core(0):
            server = servers.enter_context(ours.server(bench.inputs, folder / "ours"))
            their_server = servers.enter_context(theirs.server(bench.inputs, folder))
        server.wait_warm()
        for each in (server, their_server):
            each.wait(each.submit([TASK, SECOND_TASK], limit=WARM_UP))

        def our_run() -> tuple[float, float]:
            before = {job.job_id for job in server.client.list_jobs()}
            spent = train("ours", server, step)
            jobs = [server.client.get(job.job_id) for job in server.client.list_jobs() if job.job_id not in before]
            if len(jobs) != count:
                raise Failed(f"{len(jobs)} jobs of {count} checkpoints")
            idle.values.append(100 * _idle_share(jobs))
            return spent

        def nobody() -> tuple[float, None]:
            return _train(bench.new_folder(), "nobody", "", checkpoints)["step_ms"], None

        interleave(bench.rounds(), [(wait, our_run), (alone, nobody)])
        # It takes minutes and many times as long as ours: once is enough.
        interleave(1, [(their_wait, lambda: train("theirs", their_server, their_step, batch_size=THEIR_BATCH))])
        same = agree(server.outcome(last_jobs["ours"]), their_server.outcome(last_jobs["theirs"]), 2 * samples)
    return CaseResult(
        "training_run",
        f"A training run with {count} checkpoints",
        f"A trainer takes {STEPS} steps of some milliseconds, submits a checkpoint with two tasks of {samples} samples,"
        f" and goes on; {count} times. Ours runs at its defaults, lmms-eval's server once, at"
        f" batch size {THEIR_BATCH}. Both servers have run a small job of both tasks before. The servers have one"
        " core and the trainer another, as a trainer's GPUs are its own. CPU seconds are those of the server and its"
        " jobs.",
        [wait, their_wait, idle, step, their_step, alone],
        [
            ratio(
                "from the last submission to the last result: lmms-eval / ours",
                *(their_wait, wait),
                headline=f"{count} checkpoints of a training run, from the last submission to the last result",
            ),
            ratio("training step: with ours / alone", step, alone),
            ratio("training step: with lmms-eval / alone", their_step, alone),
            ratio("training step: with lmms-eval / with ours", their_step, step),
        ],
        [same],
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


def _train(folder: Path, system: str, address: str, checkpoints: Path, **options: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.suite.trainer", system, address, str(checkpoints), str(STEPS)]
    with on_core(-1):
        done = subprocess.run(
            [*command, f"{TASK},{SECOND_TASK}", json.dumps(options)],
            check=True,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(folder),
            text=True,
        )
    told: dict[str, Any] = json.loads(done.stdout)
    return told
