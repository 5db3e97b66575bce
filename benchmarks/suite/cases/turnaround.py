"""How long one small job takes from submission to its result."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from types import ModuleType

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, interleave, ratio
from benchmarks.suite.inputs import TASK
from benchmarks.suite.outcome import agree, in_folder

SAMPLES = 8
STAGES = ("preparing", "loading_model", "generating", "scoring", "writing")


def run(bench: Bench) -> CaseResult:
    """Warm and cold server, lmms-eval's server, both command lines; then jobs of one sample in a row."""
    warm = Series(OURS, "job through the server, warm")
    cold = Series(OURS, "job through a server that was just started, start included")
    http = Series(THEIRS, "job through its HTTP server")
    line = Series(OURS, "command line")
    their_line = Series(THEIRS, "command line")
    stages: dict[str, list[float]] = {name: [] for name in ("submit", *STAGES, "service")}
    row = Series(OURS, "each of the one-sample jobs in a row")
    their_row = Series(THEIRS, "each of the one-sample jobs in a row")
    last: dict[str, Path] = {}

    def command_line(system: str, module: ModuleType) -> tuple[float, float]:
        last[system] = bench.new_folder()
        spent: tuple[float, float] = module.command_line(bench.inputs, last[system], [TASK], limit=SAMPLES)
        return spent

    folder = bench.new_folder()
    with ours.server(bench.inputs, folder / "ours") as server, theirs.server(bench.inputs, folder) as their_server:
        server.wait_warm()
        # Neither server's first job counts. Their answers tell that both do the same.
        ours_first, their_first = (each.submit([TASK], limit=SAMPLES) for each in (server, their_server))
        server.wait(ours_first)
        their_server.wait(their_first)
        same = agree(server.outcome(ours_first), their_server.outcome(their_first), SAMPLES)
        interleave(
            bench.rounds(),
            [
                (warm, lambda: warm_job(server, stages)),
                (http, lambda: their_job(their_server)),
                (cold, lambda: cold_job(bench)),
                (line, lambda: command_line(OURS, ours)),
                (their_line, lambda: command_line(THEIRS, theirs)),
            ],
        )
        same_lines = agree(in_folder(last[OURS] / "output"), in_folder(last[THEIRS] / "output"), SAMPLES)
        jobs, their_jobs = (10, 1) if bench.quick else (50, 2)
        interleave(
            bench.rounds(),
            [
                (row, lambda: queue_of_one_sample_jobs(server, jobs)),
                (their_row, lambda: queue_of_one_sample_jobs(their_server, their_jobs)),
            ],
        )
    parts = [Series(OURS, f"warm job: {name}", values=values) for name, values in stages.items() if values]
    return CaseResult(
        "turnaround",
        "Turnaround of one job",
        f"A job of {SAMPLES} samples of digits, from submission to its result. The servers are idle and have run a job"
        f" before. lmms-eval's job is asked after every {theirs.POLL:g} s, not every 5 s as its client does. Both run"
        f" on one thread, at their default batch sizes. In a row: {jobs} (lmms-eval {their_jobs}) jobs of one sample"
        " that are submitted at once, whole time by their number.",
        [warm, cold, http, line, their_line, row, their_row, *parts],
        [
            ratio(
                "warm job: lmms-eval's server / ours",
                *(http, warm),
                at_least=40,
                headline=f"job of {SAMPLES} samples, from submission to result, running server",
                why="two fifths of what is left are the generation; the rest is a process of its own, whose data and"
                " model are loaded for the job",
            ),
            ratio(
                "one-sample jobs in a row: lmms-eval's server / ours",
                *(their_row, row),
                at_least=40,
                headline="one-sample jobs in a row, each",
                why="each job is a process of its own, forked, and commits to the disk several times",
            ),
            ratio(
                "command line: lmms-eval / ours",
                *(their_line, line),
                headline=f"the same {SAMPLES} samples on the command line, without a server",
            ),
            ratio("first job of a cold server, start included: lmms-eval's warm server / ours", http, cold),
        ],
        [
            f"servers: {same}",
            f"command lines: {same_lines}",
            f"of a warm job's {warm.median:.3f} s: " + ", ".join(_part(part) for part in parts),
        ],
    )


def _part(series: Series) -> str:
    return f"{series.quantity.removeprefix('warm job: ')} {statistics.median(series.values):.3f}"


def warm_job(server: ours.Server, stages: dict[str, list[float]]) -> tuple[float, float]:
    cpu, began = server.cpu(), time.perf_counter()
    job_id = server.submit([TASK], limit=SAMPLES)
    submitted = time.perf_counter() - began
    job = server.wait(job_id)
    wall = time.perf_counter() - began
    elapsed = job.evaluation_result.throughput.stage_elapsed
    inside = {name: elapsed[name].ToTimedelta().total_seconds() for name in STAGES if name in elapsed}
    for name, seconds in {"submit": submitted, **inside, "service": wall - submitted - sum(inside.values())}.items():
        stages[name].append(seconds)
    return wall, server.cpu() - cpu


def cold_job(bench: Bench) -> tuple[float, float]:
    began = time.perf_counter()
    with ours.server(bench.inputs, bench.new_folder()) as server:
        server.wait(server.submit([TASK], limit=SAMPLES))
        return time.perf_counter() - began, server.cpu()


def their_job(server: theirs.Server) -> tuple[float, float]:
    cpu, began = server.cpu(), time.perf_counter()
    server.wait(server.submit([TASK], limit=SAMPLES))
    return time.perf_counter() - began, server.cpu() - cpu


def queue_of_one_sample_jobs(server: ours.Server | theirs.Server, count: int) -> tuple[float, float]:
    cpu, began = server.cpu(), time.perf_counter()
    jobs = [server.submit([TASK], limit=1) for _ in range(count)]
    for job_id in jobs:
        server.wait(job_id)
    return (time.perf_counter() - began) / count, (server.cpu() - cpu) / count
