"""What a server bears: thousands of watchers while jobs run, stalled watchers, bursts, and what durability costs.

Starts servers of its own, one per scenario, on loopback: the real server (SQLite with synced commits on a real disk,
every interceptor, its log at INFO), of which only the executor is played: jobs run no model but report progress four
times a second, a task's result, and their end. The clients are processes of their own. Everything shares this machine's
cores, so the clients' work is part of every latency here; `server.cpu_share` says how much of one core the server took.

    watchers  2,000 watchers of 8 running jobs that report out of step, each from the job's first event to its end. All
              must be told every state in order. Progress: from the moment the worker reports (a time of the clock that
              all processes share, carried in the message) until the client has the message; that includes the commit
              and the server's limit of four a second. Meanwhile another client makes 50 unary calls a second of five
              kinds, each started at its time and timed from its start; the same calls on the idle server are the
              comparison.
    stalled   the same, with 1,000 more watchers of the same jobs in a process that is stopped (SIGSTOP) before the jobs
              run. Their connections fill up (`bytes_unread_by_them`) and stay so.
    fanout    one event at a time to 1,000 and 5,000 idle watchers of one job: seconds from the report to the last of
              them. Memory: the growth of the server's resident set by watcher, after a garbage collection.
    burst     6,000 submissions at once on one connection: how many are answered, and are there afterwards.
    durable   submissions against a bare echo of the same message by a server without interceptors in the same process,
              in turn, 1 and 32 in flight, while one job runs and the others wait. A submission is answered when it is
              on the disk.

A figure that misses its target is reported, and makes the exit status 1.

    python benchmarks/load.py all --output benchmarks/results/2-cores-no-gpu/load.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

# Its parts are found where this file lies, whatever the working folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.load_generator import scenarios
from benchmarks.load_generator.figures import Target
from benchmarks.load_generator.scenarios import Figures, Scale

SCENARIOS: dict[str, Callable[[Scale, Path | None], tuple[Figures, list[Target]]]] = {
    "watchers": lambda scale, folder: scenarios.watched(scale, folder, 0),
    "stalled": lambda scale, folder: scenarios.watched(scale, folder, scale.stalled),
    "fanout": scenarios.fanout,
    "burst": scenarios.burst,
    "durable": scenarios.durable,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="+", choices=["all", *SCENARIOS], metavar="scenario")
    parser.add_argument("--quick", action="store_true", help="as many clients, for a shorter time")
    parser.add_argument(
        "--tiny", action="store_true", help="a few dozen clients: a check that says nothing about speed"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the servers keep their state (default: the temporary folder)"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    scale = scenarios.TINY if arguments.tiny else scenarios.QUICK if arguments.quick else Scale()
    names = list(SCENARIOS) if "all" in arguments.scenarios else arguments.scenarios
    figures: dict[str, Any] = {
        "what": "one server with played jobs, and clients in processes of their own, on loopback",
        "cpus": os.cpu_count(),
        "load_average_before": os.getloadavg(),
        "platform": platform.platform(),
        "file_system": file_system(arguments.folder or Path(os.environ.get("TMPDIR", "/tmp"))),
        "versions": {name: version(name) for name in ("grpcio", "protobuf")}
        | {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
        "scale": asdict(scale),
        "targets": [],
        "scenarios": {},
    }
    passed = True
    for name in names:
        began, load = time.monotonic(), os.getloadavg()
        found, targets = SCENARIOS[name](scale, arguments.folder)
        found["seconds"], found["load_average_before"] = round(time.monotonic() - began, 1), load
        figures["scenarios"][name] = found
        print(f"{name} ({found['seconds']:.0f} s, load average {load[0]:.1f} before)")
        for target in targets:
            print(f"  {target}", flush=True)
            passed &= target.passed
            figures["targets"].append(asdict(target) | {"passed": target.passed})
    figures["load_average_after"] = os.getloadavg()
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if passed else 1


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on: in memory a synced commit costs nothing."""
    holding = [part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)]
    return max(holding, key=lambda part: len(part.mountpoint)).fstype if holding else "unknown"


if __name__ == "__main__":
    raise SystemExit(main())
