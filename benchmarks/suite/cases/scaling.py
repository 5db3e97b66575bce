"""What grows with the number of samples of a job and of jobs in the queue."""

from __future__ import annotations

import threading
import time

from benchmarks.suite import ours
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import LOOP, OURS, CaseResult, Comparison, Series, interleave
from benchmarks.suite.inputs import MANY, MANY_TASK
from benchmarks.suite.raw_loop import Loop

LARGE = 2_000
SHORT = {"max_new_tokens": 2}
"""Short answers: what a sample costs beside its generation shows best, and twenty thousand take a minute."""


def run(bench: Bench) -> CaseResult:
    """Jobs of more and more samples, one of two thousand beside the loop, and longer and longer queues."""
    counts = (100, 300, LARGE) if bench.quick else (100, 300, LARGE, MANY)
    times = {count: Series(OURS, f"job of {count:,} samples, 2 tokens each: per sample", "ms") for count in counts}
    peaks = {count: Series(OURS, f"job of {count:,} samples: largest memory of its worker", "MiB") for count in counts}
    whole = Series(OURS, f"job of {LARGE:,} samples, 16 tokens each")
    raw = Series(LOOP, f"the same {LARGE:,} samples")
    with ours.server(bench.inputs, bench.new_folder()) as server:
        server.wait_warm()
        server.wait(server.submit([MANY_TASK], limit=8))
        for count in counts:
            for _ in range(bench.rounds(3, 1)):
                seconds, memory = _job(server, count)
                times[count].values.append(1000 * seconds / count)
                peaks[count].values.append(memory / 2**20)
                print(f"  {count} samples: {seconds:.1f} s, {memory >> 20} MiB", flush=True)
        with Loop.start(bench) as loop:
            best = loop.best_batch_size([MANY_TASK], samples=300)
            raw.note = f"batch size {best}"
            runs = [
                (whole, lambda: (_timed(server, LARGE), None)),
                (raw, lambda: loop.run([MANY_TASK], best, samples=LARGE)),
            ]
            interleave(bench.rounds(5, 1), runs)
    queue = _queue(bench)
    share = raw.median / whole.median
    shares = [loop / job for loop, job in zip(raw.values, whole.values, strict=True)]
    comparisons = [
        Comparison(
            f"the loop's share of a {LARGE:,}-sample job's whole time",
            share,
            (min(shares), max(shares)),
            "",
            at_least=0.9,
        )
    ]
    if MANY in counts:
        growth = 100 * (peaks[MANY].median / peaks[LARGE].median - 1)
        comparisons.append(
            Comparison(f"memory growth from {LARGE:,} to {MANY:,} samples", growth, None, "%", at_most=10)
        )
    return CaseResult(
        "scaling",
        "Scaling",
        "Jobs of the running server at its defaults, from submission to result. A worker's memory is its own and its"
        " share of what it has in common with the process that it was forked from. Queues are made of jobs that wait in"
        " a paused queue.",
        [*times.values(), *peaks.values(), whole, raw, *queue],
        comparisons,
    )


def _timed(server: ours.Server, samples: int) -> float:
    began = time.perf_counter()
    server.wait(server.submit([MANY_TASK], limit=samples))
    return time.perf_counter() - began


def _job(server: ours.Server, samples: int) -> tuple[float, int]:
    """Seconds, and the largest memory of the job's worker in bytes."""
    done = threading.Event()
    peak = 0

    def look() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, server.largest_child())

    watching = threading.Thread(target=look)
    watching.start()
    began = time.perf_counter()
    server.wait(server.submit([MANY_TASK], limit=samples, gen_kwargs=SHORT))
    seconds = time.perf_counter() - began
    done.set()
    watching.join()
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
            asked = Series(OURS, f"queue status with {length:,} jobs waiting", "ms")
            for _ in range(20):
                began = time.perf_counter()
                server.client.get_queue_status()
                asked.values.append(1000 * (time.perf_counter() - began))
            sent = Series(OURS, f"submission with {length:,} jobs waiting", "ms")
            for _ in range(20):
                began = time.perf_counter()
                server.submit([MANY_TASK], limit=1)
                sent.values.append(1000 * (time.perf_counter() - began))
                waiting += 1
            status.append(asked)
            submit.append(sent)
    return [*submit, *status]
