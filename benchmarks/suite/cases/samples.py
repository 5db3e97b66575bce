"""Three hundred samples: whole jobs, and what a hand-written loop takes for the same."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import THEIR_BATCH, Bench
from benchmarks.suite.figures import LOOP, OURS, THEIRS, CaseResult, Series, interleave, ratio
from benchmarks.suite.inputs import COSTLY_TASK, MIXED_TASK, SAMPLES, SECOND_TASK, TASK, TOKENS
from benchmarks.suite.outcome import Outcome, agree, in_folder, same_prompts
from benchmarks.suite.raw_loop import BATCH_SIZES, Loop

KINDS: dict[str, Sequence[str]] = {
    "digits": [TASK],
    "two tasks in one job": [TASK, SECOND_TASK],
    "mixed lengths": [MIXED_TASK],
    "images of 1600 by 1600": [COSTLY_TASK],
}


def run(bench: Bench) -> CaseResult:
    """At the defaults of both, at a larger batch size of lmms-eval, and the loop at its own."""
    result = CaseResult(
        "samples",
        f"{SAMPLES} samples",
        f"{SAMPLES} samples of up to {TOKENS} new tokens, greedy. Ours is a job of the running server at its defaults"
        " (automatic batch size), from submission to result. lmms-eval is its command line, whole, at its default batch"
        " size of 1"
        + ("" if bench.quick else f" and at {THEIR_BATCH}")
        + "; its server takes a little longer than that. The loop holds the model already and only prepares and"
        f" generates, at {_loop_batch(bench)}, in the documents' order and on one thread. Beside it stands our stage of"
        " generation: ours prepares in a thread of its own, for which there is a second core, also while it scores,"
        " when that stage's clock stands still, and sorts the samples by length. So it stands there with scoring too."
        " The loop has run before; its first run in a new process, with the model loaded, is taken for the digits too.",
    )
    with ours.server(bench.inputs, bench.new_folder()) as server, Loop.start(bench) as loop:
        server.wait_warm()
        server.wait(server.submit([TASK]))
        loop.run([TASK], BATCH_SIZES[0])
        for kind, tasks in KINDS.items():
            if tasks == [COSTLY_TASK] and bench.quick:
                result.notes.append(f"{kind}: left out of a quick run")
            else:
                _measure(bench, result, server, loop, kind, tasks)
    return result


def _loop_batch(bench: Bench) -> str:
    return f"batch size {BATCH_SIZES[-1]}" if bench.quick else f"the best of {len(BATCH_SIZES)} batch sizes"


def _measure(
    bench: Bench, result: CaseResult, server: ours.Server, loop: Loop, kind: str, tasks: Sequence[str]
) -> None:
    whole = Series(OURS, f"{kind}: whole job at defaults")
    stage = Series(OURS, f"{kind}: generation stage")
    scored = Series(OURS, f"{kind}: generation and scoring stages")
    raw = Series(LOOP, f"{kind}: preparation and generation")
    best = loop.best_batch_size(tasks)
    raw.note = f"batch size {best}"

    jobs: list[str] = []
    read: list[int] = []
    found: dict[str, Outcome] = {}

    def job() -> tuple[float, float]:
        cpu, began = server.cpu(), time.perf_counter()
        jobs.append(server.submit(tasks))
        done = server.wait(jobs[-1])
        wall = time.perf_counter() - began
        read.append(done.evaluation_result.usage.input_tokens)
        elapsed = done.evaluation_result.throughput.stage_elapsed
        generating, scoring = (elapsed[name].ToTimedelta().total_seconds() for name in ("generating", "scoring"))
        stage.values.append(generating)
        scored.values.append(generating + scoring)
        return wall, server.cpu() - cpu

    runs = [(whole, job), (raw, lambda: loop.run(tasks, best))]
    theirs_default = Series(THEIRS, f"{kind}: whole command line at defaults")
    theirs_best = Series(THEIRS, f"{kind}: whole command line at batch size {THEIR_BATCH}")
    fresh = Series(LOOP, f"{kind}: preparation and generation, first run of a new process", note=raw.note)
    folder = bench.new_folder()

    def first_run() -> tuple[float, float]:
        with Loop.start(bench) as new:
            return new.run(tasks, best)

    def command_line(batch_size: int | None) -> tuple[float, float]:
        shutil.rmtree(folder / "output", ignore_errors=True)
        spent = theirs.command_line(bench.inputs, folder, tasks, batch_size=batch_size)
        found["its defaults" if batch_size is None else f"batch size {batch_size}"] = in_folder(folder / "output")
        return spent

    if kind == "digits":
        runs.append((theirs_default, lambda: command_line(None)))
        if not bench.quick:
            runs += [(theirs_best, lambda: command_line(THEIR_BATCH)), (fresh, first_run)]
    interleave(bench.rounds(), runs)
    same_prompts(kind, read, loop.prompt_tokens)
    for how, outcome in found.items():
        result.notes.append(f"lmms-eval at {how}: {agree(server.outcome(jobs[-1]), outcome, SAMPLES)}")
    every = (whole, stage, scored, raw, fresh, theirs_default, theirs_best)
    result.series += [series for series in every if series.values]
    result.comparisons += [
        ratio(
            f"{kind}: our generation stage / the loop",
            *(stage, raw),
            at_most=1.05,
            headline=f"generation of {SAMPLES} samples, against a hand-written loop" if kind == "digits" else "",
            why="the loop has run before, a job is a process of its own, whose memory is new",
        ),
        ratio(f"{kind}: our generation and scoring stages / the loop", scored, raw),
    ]
    if fresh.values:
        result.comparisons.append(
            ratio(
                f"{kind}: our generation stage / the loop's first run in a new process",
                *(stage, fresh),
                headline="the same, against that loop's first run in a new process, as a job's is",
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
                f"{kind}: lmms-eval at batch size {THEIR_BATCH} / our whole job",
                *(theirs_best, whole),
                headline=f"the same, lmms-eval at batch size {THEIR_BATCH}",
            )
        )
