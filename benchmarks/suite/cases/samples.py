"""Three hundred samples: whole jobs, and what a hand-written loop takes for the same."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import partial

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import LOOP, OURS, THEIRS, CaseResult, Series, interleave, ratio
from benchmarks.suite.inputs import COSTLY_TASK, MIXED_TASK, SAMPLES, SECOND_TASK, TASK, TOKENS
from benchmarks.suite.outcome import agree, in_folder
from benchmarks.suite.processes import Failed
from benchmarks.suite.raw_loop import Loop

BEST_BATCH = 16
"""The batch size at which lmms-eval's command line was fastest on the machine of the first figures."""

KINDS: dict[str, Sequence[str]] = {
    "digits": [TASK],
    "two tasks in one job": [TASK, SECOND_TASK],
    "mixed lengths": [MIXED_TASK],
    "images of 1600 by 1600": [COSTLY_TASK],
}


def run(bench: Bench) -> CaseResult:
    """At the defaults of both, at lmms-eval's best batch size, and the loop at its own."""
    result = CaseResult(
        "samples",
        f"{SAMPLES} samples",
        f"{SAMPLES} samples of up to {TOKENS} new tokens, greedy. Ours is a job of the running server at its defaults"
        " (automatic batch size), from submission to result. lmms-eval is its command line, whole, at its default batch"
        f" size of 1 and at {BEST_BATCH}; its server takes a little longer than that. The loop holds the model already"
        " and only prepares and generates, at its best batch size.",
    )
    with ours.server(bench.inputs, bench.new_folder()) as server, Loop.start(bench) as loop:
        server.wait_warm()
        server.wait(server.submit([TASK]))
        loop.run([TASK], BEST_BATCH)
        for kind, tasks in KINDS.items():
            if tasks == [COSTLY_TASK] and bench.quick:
                result.notes.append(f"{kind}: left out of a quick run")
            else:
                _measure(bench, result, server, loop, kind, tasks)
    return result


def _measure(
    bench: Bench, result: CaseResult, server: ours.Server, loop: Loop, kind: str, tasks: Sequence[str]
) -> None:
    whole = Series(OURS, f"{kind}: whole job at defaults")
    stage = Series(OURS, f"{kind}: generation stage")
    raw = Series(LOOP, f"{kind}: generation at its best batch size")
    best = loop.best_batch_size(tasks)
    raw.note = f"batch size {best}"

    jobs: list[str] = []

    def job() -> tuple[float, float]:
        cpu, began = server.cpu(), time.perf_counter()
        jobs.append(server.submit(tasks))
        done = server.wait(jobs[-1])
        wall = time.perf_counter() - began
        read = done.evaluation_result.usage.input_tokens
        if read != loop.prompt_tokens:
            raise Failed(f"{kind}: our prompts have {read} tokens and the loop's {loop.prompt_tokens}")
        stage.values.append(done.evaluation_result.throughput.stage_elapsed["generating"].ToTimedelta().total_seconds())
        return wall, server.cpu() - cpu

    runs = [(whole, job), (raw, lambda: loop.run(tasks, best))]
    theirs_default = Series(THEIRS, f"{kind}: whole command line at defaults")
    theirs_best = Series(THEIRS, f"{kind}: whole command line at batch size {BEST_BATCH}")
    folder = bench.new_folder()

    def command_line() -> tuple[float, float]:
        shutil.rmtree(folder / "output", ignore_errors=True)
        return theirs.command_line(bench.inputs, folder, tasks)

    if kind == "digits":
        runs.append((theirs_default, command_line))
        if not bench.quick:
            run = partial(theirs.command_line, batch_size=BEST_BATCH)
            runs.append((theirs_best, lambda: run(bench.inputs, bench.new_folder(), tasks)))
    interleave(bench.rounds(), runs)
    if kind == "digits":
        result.notes.append(agree(server.outcome(jobs[-1]), in_folder(folder / "output"), SAMPLES))
    result.series += [series for series in (whole, stage, raw, theirs_default, theirs_best) if series.values]
    result.comparisons.append(
        ratio(
            f"{kind}: our generation stage / the loop",
            *(stage, raw),
            at_most=1.05,
            headline=f"generation of {SAMPLES} samples, against a hand-written loop" if kind == "digits" else "",
            why="the stage prepares what it generates from, in batches whose size it finds by itself, and keeps every"
            " answer on disk",
        )
    )
    if theirs_default.values:
        result.comparisons.append(
            ratio(
                f"{kind}: lmms-eval at defaults / our whole job",
                *(theirs_default, whole),
                at_least=15,
                headline=f"{SAMPLES} samples, both at defaults, ours as a job, lmms-eval's command line",
            )
        )
    if theirs_best.values:
        result.comparisons.append(
            ratio(
                f"{kind}: lmms-eval at batch size {BEST_BATCH} / our whole job",
                *(theirs_best, whole),
                headline=f"the same, lmms-eval at its best batch size of {BEST_BATCH}",
            )
        )
