"""What grows with the number of samples of a job, of jobs in the queue, and of watchers."""

from __future__ import annotations

import itertools
import math
import threading
import time
from typing import Any

from benchmarks.load_generator.executor import Script
from benchmarks.load_generator.scenarios import new_rig, open_watchers, tell
from benchmarks.suite import ours
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import LOOP, OURS, CaseResult, Comparison, Series, interleave
from benchmarks.suite.inputs import MANY, MANY_TASK
from benchmarks.suite.outcome import same_prompts
from benchmarks.suite.processes import Failed, peak_memory
from benchmarks.suite.raw_loop import Loop

LARGE = 2_000
SHORT = {"max_new_tokens": 2}
"""Short answers: what a sample costs beside its generation shows best, and twenty thousand take a minute."""
CALLS = 20
"""Calls of each kind at each length of the queue."""
EVENTS = 9
"""Events that are told to each number of watchers."""


def run(bench: Bench) -> CaseResult:
    """Jobs of more and more samples, one of two thousand beside the loop, longer and longer queues, more watchers."""
    most = 6_000 if bench.quick else MANY
    counts = (100, LARGE, most) if bench.quick else (100, 300, LARGE, most)
    times = {count: Series(OURS, f"job of {count:,} samples, 2 tokens each: per sample", "ms") for count in counts}
    peaks = {
        count: Series(OURS, f"job of {count:,} samples, 2 tokens each: largest memory of its worker", "MiB")
        for count in counts
    }
    whole = Series(OURS, f"job of {LARGE:,} samples, 16 tokens each")
    raw = Series(LOOP, f"the same {LARGE:,} samples")
    with ours.server(bench.inputs, bench.new_folder()) as server:
        server.wait_warm()
        server.wait(server.submit([MANY_TASK], limit=8))
        for count in counts:
            for _ in range(bench.rounds(1 if count == MANY else 3)):
                seconds, memory = _job(server, count)
                times[count].values.append(1000 * seconds / count)
                peaks[count].values.append(memory / 2**20)
                print(f"  {count} samples: {seconds:.1f} s, {memory >> 20} MiB", flush=True)
        with Loop.start(bench) as loop:
            best = loop.best_batch_size([MANY_TASK])
            raw.note = f"batch size {best}"
            read: list[int] = []

            def job() -> tuple[float, float]:
                cpu, began = server.cpu(), time.perf_counter()
                done = _complete(server, LARGE)
                wall = time.perf_counter() - began
                read.append(done.evaluation_result.usage.input_tokens)
                return wall, server.cpu() - cpu

            loop.run([MANY_TASK], best, samples=LARGE)
            interleave(bench.rounds(), [(whole, job), (raw, lambda: loop.run([MANY_TASK], best, samples=LARGE))])
            same_prompts(MANY_TASK, read, loop.prompt_tokens)
    shares = [loop / job for loop, job in zip(raw.values, whole.values, strict=True)]
    growth = 100 * (peaks[most].median / peaks[LARGE].median - 1)
    return CaseResult(
        "scaling",
        "Scaling",
        "Jobs of the running server at its defaults, from submission to result. A worker's memory is the most that it"
        " had, as the kernel counts it, with what it has in common with the process that it was forked from. The"
        " loop holds the model already and only prepares and generates. Queues are made of jobs that wait in a paused"
        " queue. Watchers belong to two client processes on this machine and follow one job of a server whose worker is"
        " played, one event at a time: from the worker's report until the last of them has it.",
        [*times.values(), *peaks.values(), whole, raw, *_queue(bench), *_watchers(bench)],
        [
            Comparison(
                f"the loop's share of a {LARGE:,}-sample job's whole time",
                raw.median / whole.median,
                (min(shares), max(shares)),
                "",
                at_least=0.9,
                headline=f"job of {LARGE:,} samples, whole, against a hand-written loop's generation",
                why="beside what the loop does, a job loads the model, scores, and keeps every sample on disk",
                ours=whole,
                other=raw,
            ),
            Comparison(
                f"memory growth from {LARGE:,} to {most:,} samples, 2 tokens each",
                growth,
                None,
                "%",
                at_most=10,
                headline=f"memory of a job of {most:,} samples, 2 tokens each, against one of {LARGE:,}",
                why="the samples' places and scores are kept in memory until the job ends",
                ours=peaks[most],
            ),
        ],
    )


def _complete(server: ours.Server, samples: int, **more: Any) -> Any:
    done = server.wait(server.submit([MANY_TASK], limit=samples, **more))
    scored = done.evaluation_result.task_results[0].samples.scored
    if scored != samples:
        raise Failed(f"{scored} of {samples} samples were scored")
    return done


def _job(server: ours.Server, samples: int) -> tuple[float, int]:
    """Seconds, and the largest memory of the job's worker in bytes."""
    done = threading.Event()
    peak = 0

    def look() -> None:
        nonlocal peak
        # Often: the worker sets the kernel's count back with every batch. Looking for processes takes long.
        for number in itertools.count():
            if done.wait(0.05):
                return
            if number % 4 == 0:
                below = server.workers()
            peak = max(peak, max(map(peak_memory, below), default=0))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        began = time.perf_counter()
        _complete(server, samples, gen_kwargs=SHORT)
        seconds = time.perf_counter() - began
    finally:
        done.set()
        watching.join()
    if not peak:
        raise Failed(f"no worker of the job of {samples} samples was seen")
    return seconds, peak


def _queue(bench: Bench) -> list[Series]:
    submit, status = [], []
    lengths = (1, 100) if bench.quick else (1, 100, 1_000, 2_000)
    with ours.server(bench.inputs, bench.new_folder(), "--max-queued-jobs", "3000") as server:
        server.client.pause_queue("benchmark")
        waiting = 0
        for length in lengths:
            while waiting < length:
                server.submit([MANY_TASK], limit=1)
                waiting += 1
            asked = Series(OURS, f"queue status with {_jobs(length)} waiting", "ms")
            for _ in range(CALLS):
                began = time.perf_counter()
                server.client.get_queue_status()
                asked.values.append(1000 * (time.perf_counter() - began))
            sent = Series(OURS, f"submission with {_jobs(length)} waiting", "ms")
            for _ in range(CALLS):
                began = time.perf_counter()
                server.submit([MANY_TASK], limit=1)
                sent.values.append(1000 * (time.perf_counter() - began))
                waiting += 1
            status.append(asked)
            submit.append(sent)
    return [*submit, *status]


def _jobs(number: int) -> str:
    return f"{number:,} job" + ("s" if number > 1 else "")


def _watchers(bench: Bench) -> list[Series]:
    told, size = [], Series(OURS, "memory of the server for each watcher", "KiB")
    with new_rig(bench.folder, 1) as rig:
        (job,) = rig.caller.call("submit", Script(seconds=-1))
        rig.caller.call("running", job)
        rig.server.call("report", job)
        clients = rig.new_watchers(2)
        there, first = 0, 0
        for number in (1, 100, 2_000) if bench.quick else (1, 10, 100, 1_000, 2_000):
            open_watchers(clients, [job], number - there, events=3)
            if number <= 100:
                first, before = number, rig.usage()  # What the first of all bring into memory is not theirs.
            there = number
            series = Series(OURS, f"one event to {number:,} watcher" + ("s" if number > 1 else ""), "ms")
            series.values = [1000 * tell(rig, clients, job, number) for _ in range(bench.rounds(EVENTS, 3))]
            if any(map(math.isinf, series.values)):
                raise Failed(f"an event did not reach all of {number} watchers")
            told.append(series)
            print(f"  {series.quantity}: {series.median:.3g} ms", flush=True)
        size.values = [(rig.usage().rss_bytes - before.rss_bytes) / 1024 / (there - first)]
    return [*told, size]
