"""What is done to the server. Each scenario starts one of its own and returns its figures and its targets."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load_generator.callers import Caller, Latencies
from benchmarks.load_generator.executor import Script
from benchmarks.load_generator.figures import Target, percentile, summarize
from benchmarks.load_generator.remote import Remote
from benchmarks.load_generator.server import LoadedServer, Usage
from benchmarks.load_generator.watchers import Told, Watchers

PATIENCE = 120.0
"""Seconds after which what should have come is taken not to come."""
JOBS = 8
"""Jobs that run at once while they are watched; one more slot runs those that are submitted meanwhile."""
CANCELLED = 2
"""Of them are cancelled in the end."""
CALLS_PER_SECOND = 50.0
PROGRESS_EVERY = 0.25
"""Seconds between two reports of a job."""
FIRST_FEW = 10
"""Watchers that are there before memory is measured."""
ALL_TOLD = {1_000: 0.1, 5_000: 0.4}
"""Seconds within which one event is to reach so many idle watchers."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    watchers: int = 2_000
    stalled: int = 1_000
    seconds: float = 15.0
    """That the watched jobs run."""
    metrics: int = 150
    """Of the task result of each: some 15 KB."""
    fanout: tuple[int, ...] = (1_000, 5_000)
    events: int = 9
    """Events that are told to the idle watchers of each number."""
    burst: int = 6_000
    rounds: int = 8
    calls: int = 200
    """Echoes and submissions in each round."""
    processes: int = 2
    """Of watchers."""


QUICK = Scale(seconds=6.0, events=5, rounds=3, calls=100)
TINY = Scale(
    watchers=40,
    stalled=16,
    seconds=1.0,
    metrics=3_000,
    fanout=(20, 40),
    events=2,
    burst=1_500,
    rounds=1,
    calls=20,
    processes=1,
)


class Rig:
    """A server, a caller, and what else a scenario starts; all of it ends with the rig."""

    def __init__(self, folder: Path, stack: ExitStack, slots: int) -> None:
        self._stack = stack
        checkpoint = folder / "checkpoint-100"
        checkpoint.mkdir()
        for name in ("config.json", "model.safetensors"):
            (checkpoint / name).write_text("{}")
        self._checkpoint = str(checkpoint)
        self.server = stack.enter_context(Remote(LoadedServer, folder / "state", slots, log=folder / "server.log"))
        self.address, self._echo_address = self.server.call("start")
        self.caller = self.new_caller()

    def new_caller(self) -> Remote:
        """Another client process for calls."""
        return self._stack.enter_context(Remote(Caller, self.address, self._echo_address, self._checkpoint))

    def new_watchers(self, processes: int) -> list[Remote]:
        """So many client processes for watchers, without any yet."""
        return [self._stack.enter_context(Remote(Watchers, self.address)) for _ in range(processes)]

    def usage(self) -> Usage:
        """Of the server, since the last time."""
        used: Usage = self.server.call("usage")
        return used


@contextmanager
def new_rig(folder: Path | None, slots: int) -> Iterator[Rig]:
    """A server with its state below ``folder`` (None: the system's folder for temporary files)."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="load-") as state, ExitStack() as stack:
        yield Rig(Path(state), stack, slots)


def watched(scale: Scale, folder: Path | None, stalled: int) -> tuple[Figures, list[Target]]:
    """Watchers of jobs that run, and unary calls meanwhile; with so many stalled watchers of the same jobs."""
    with new_rig(folder, JOBS + 1) as rig:
        idle_job, *_ = rig.caller.call("submit", Script(seconds=-1))
        rig.caller.call("running", idle_job)
        idle = rig.caller.call("steady", max(1.0, scale.seconds / 2), CALLS_PER_SECOND, idle_job)
        rig.caller.call("cancel", idle_job)
        rig.caller.call("pause")
        # Out of step, as jobs are that were not started together.
        phases = [number * PROGRESS_EVERY / JOBS for number in range(JOBS)]
        seconds = [scale.seconds + (PATIENCE if number < CANCELLED else 0.0) for number in range(JOBS)]
        scripts = [
            Script(lasting, PROGRESS_EVERY, phase, scale.metrics)
            for lasting, phase in zip(seconds, phases, strict=True)
        ]
        jobs = rig.caller.call("submit", *scripts)
        watchers = rig.new_watchers(scale.processes)
        before = rig.usage()
        told_first = open_watchers(watchers, jobs, scale.watchers)
        opened = rig.usage()
        if stalled:
            (sleepers,) = rig.new_watchers(1)
            sleepers.call("open", jobs, stalled, PATIENCE)
            psutil.Process(sleepers.pid).suspend()
        rig.usage()
        rig.caller.call("resume")
        rig.caller.call("running", jobs[-1])
        busy = rig.caller.call("steady", 0.8 * scale.seconds, CALLS_PER_SECOND, jobs[0])
        used = rig.usage()
        for job in jobs[:CANCELLED]:
            rig.caller.call("cancel", job)
        told = _finish(watchers)
        histories = {job: rig.caller.call("history", job) for job in jobs}
        if stalled:
            psutil.Process(sleepers.pid).resume()
    figures = _watched_figures(told, histories, scale)
    figures |= {
        "stalled_watchers": stalled,
        "bytes_unread_by_them": used.unread_bytes,
        "kib_per_watcher": round((opened.rss_bytes - before.rss_bytes) / 1024 / scale.watchers, 1),
        "unary_idle": _unary(idle),
        "unary_busy": _unary(busy),
        "server": _server(used),
    }
    figures["unary_p99_to_idle"] = round(
        figures["unary_busy"]["all"]["p99_ms"] / figures["unary_idle"]["all"]["p99_ms"], 2
    )
    wrong = figures["watchers_that_missed_a_state"] + figures["out_of_order"] + figures["broken"]
    wrong += scale.watchers - told_first
    what = f"{scale.watchers} watchers" + (f" and {stalled} stalled ones" if stalled else "")
    return figures, [
        Target(f"{what}: watchers that missed something", wrong, 0, timing=False),
        Target(f"{what}: progress at the median watcher", figures["progress"]["p50_ms"] / 1000, 0.25, "s"),
        Target(f"{what}: unary calls, p99", figures["unary_busy"]["all"]["p99_ms"], 50, "ms"),
    ]


def fanout(scale: Scale, folder: Path | None) -> tuple[Figures, list[Target]]:
    """One event at a time to idle watchers of one job, and the memory that they take."""
    figures: Figures = {}
    targets: list[Target] = []
    with new_rig(folder, 1) as rig:
        (job,) = rig.caller.call("submit", Script(seconds=-1))
        rig.caller.call("running", job)
        rig.server.call("report", job)
        watchers = rig.new_watchers(scale.processes)
        # What the first few bring into memory is not theirs.
        there = FIRST_FEW
        open_watchers(watchers, [job], there, events=3)
        before = rig.usage()
        for number in scale.fanout:
            open_watchers(watchers, [job], number - there, events=3)
            there = number
            opened = rig.usage()
            spans = [tell(rig, watchers, job, number) for _ in range(scale.events)]
            late = sum(map(math.isinf, spans))
            kib = (opened.rss_bytes - before.rss_bytes) / 1024 / (number - FIRST_FEW)
            figures[str(number)] = {
                "all_told": summarize(spans),
                "events_that_did_not_reach_all": late,
                "kib_per_watcher": round(kib, 1),
                "server": _server(rig.usage()),
            }
            who = f"{number} idle watchers"
            median = percentile(sorted(spans), 0.5)
            targets += [
                Target(f"{who}: events that did not reach all", late, 0, timing=False),
                Target(f"{who}: all told, median of {scale.events}", median, ALL_TOLD.get(number, 1.0), "s"),
                Target(f"{who}: server memory of each", kib, 32, "KiB"),
            ]
    return figures, targets


def tell(rig: Rig, watchers: Sequence[Remote], job: str, number: int) -> float:
    """Seconds from a report of progress until the last watcher has it; infinite when some never have."""
    for one in watchers:
        one.call("expect")
    time.sleep(2 * PROGRESS_EVERY)  # A report too soon after the last one would wait.
    rig.server.call("report", job)
    for one in watchers:
        one.begin("arrivals", PATIENCE)
    arrivals = [arrival for one in watchers for arrival in one.result()]
    if len(arrivals) < number or len({reported for reported, _ in arrivals}) > 1:
        return math.inf
    return max(seconds for _, seconds in arrivals)


def burst(scale: Scale, folder: Path | None) -> tuple[Figures, list[Target]]:
    """Submissions, all at once on one connection."""
    with new_rig(folder, 1) as rig:
        (job,) = rig.caller.call("submit", Script(seconds=-1))
        rig.caller.call("running", job)
        rig.usage()
        taken, job_ids, errors = rig.caller.call("burst", scale.burst)
        used = rig.usage()
        listed = rig.caller.call("job_ids")
    lost = scale.burst - len(listed.intersection(job_ids))
    figures = {
        "submissions": scale.burst,
        "errors": dict(Counter(errors).most_common(5)),
        "lost": lost,
        "answered": summarize(taken),
        "per_second": round(len(taken) / max(taken, default=1.0)),
        "server": _server(used),
    }
    return figures, [Target(f"{scale.burst} submissions at once: lost", lost, 0, timing=False)]


def durable(scale: Scale, folder: Path | None) -> tuple[Figures, list[Target]]:
    """Submissions beside bare echoes."""
    figures: Figures = {}
    targets = []
    with new_rig(folder, 1) as rig:
        (job,) = rig.caller.call("submit", Script(seconds=-1))
        rig.caller.call("running", job)
        rig.caller.call("compare", 8, 1, 100)
        for in_flight in (1, 32):
            rig.usage()
            echoes, submissions = rig.caller.call("compare", in_flight, scale.rounds, scale.calls)
            ratio = percentile(sorted(submissions), 0.5) / percentile(sorted(echoes), 0.5)
            figures[f"{in_flight}_in_flight"] = {
                "echo": summarize(echoes),
                "submission": summarize(submissions),
                "ratio_of_medians": round(ratio, 3),
                "server": _server(rig.usage()),
            }
            targets.append(Target(f"submission to echo, medians, {in_flight} in flight", ratio, 2.0))
    return figures, targets


def open_watchers(watchers: Sequence[Remote], jobs: Sequence[str], count: int, events: int = 1) -> int:
    """Adds watchers, as many in each process, and returns how many of all were told their first events."""
    shares = [count // len(watchers) + (number < count % len(watchers)) for number in range(len(watchers))]
    for one, share in zip(watchers, shares, strict=True):
        one.begin("open", jobs, share, PATIENCE, events)
    return sum(one.result() for one in watchers)


def _finish(watchers: Sequence[Remote]) -> list[Told]:
    for one in watchers:
        one.begin("finish", PATIENCE)
    return [one.result() for one in watchers]


def _watched_figures(told: Sequence[Told], histories: dict[str, tuple[int, ...]], scale: Scale) -> Figures:
    seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
    by_report: dict[int, list[float]] = {}
    for one in told:
        for job, found in one.histories.items():
            for history, count in found.items():
                seen[job, history] += count
        for reported, seconds in one.progress:
            by_report.setdefault(reported, []).append(seconds)
    right = sum(count for (job, history), count in seen.items() if histories[job] == history)
    return {
        "watchers": scale.watchers,
        "jobs": JOBS,
        "states_of_each_job": sorted({len(history) for history in histories.values()}),
        "watchers_that_missed_a_state": scale.watchers - right,
        "out_of_order": sum(one.out_of_order for one in told),
        "broken": sum(one.broken for one in told),
        "messages": sum(one.messages for one in told),
        "message_bytes": sum(one.bytes for one in told),
        "reports_told": len(by_report),
        "progress": summarize(seconds for found in by_report.values() for seconds in found),
        "progress_at_the_median_watcher_of_each_report": summarize(
            percentile(sorted(found), 0.5) for found in by_report.values()
        ),
        "state_changes": summarize(seconds for one in told for seconds in one.states),
    }


def _unary(taken: Latencies) -> Figures:
    every = [seconds for found in taken.values() for seconds in found]
    return {"all": summarize(every), **{name: summarize(found) for name, found in sorted(taken.items())}}


def _server(used: Usage) -> Figures:
    return {
        "cpu_share": round(used.cpu_seconds / used.wall_seconds, 3),
        "cpu_seconds": round(used.cpu_seconds, 2),
        "worst_stall_ms": round(1000 * used.worst_stall, 1),
        "rss_mib": round(used.rss_bytes / 2**20, 1),
        "descriptors": used.descriptors,
    }
