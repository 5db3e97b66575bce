"""What thousands of jobs leave behind in a server: memory, descriptors, threads, processes, files.

Starts a server of its own that keeps a few hundred finished jobs, and sends it one-sample jobs of the shipped
``handwritten_digits`` task on an untrained tiny Idefics3, in bursts. Meanwhile jobs are watched to their ends, watches
are broken off, one client follows the queue all the time, and every twentieth job is cancelled, while it waits or while
it runs. Figures are taken as the jobs go by; at the end there is a verdict, and the exit status is 1 if it is bad.

    python benchmarks/soak.py --jobs 2000 --output benchmarks/results/2-cores-no-gpu/soak.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from lmms_eval_grpc import EvalClient
from lmms_eval_grpc.client.dictionaries import has_ended, state_name
from lmms_eval_grpc.v1.evaluation_service_pb2 import QueueChange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients" / "python"))

MIB = 2**20
WARM_UP = 0.5
"""Share of the jobs after which memory should not grow any more: what is kept in fixed numbers is all there by then."""
POOLED_THREADS = 14
"""Threads that a server starts when they are first needed: of the event loop's pool and of that for processes."""
MOST_GROWTH = 2.0
"""MiB by which the server may grow per thousand jobs after the warm-up."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--keep", type=int, default=200, help="finished jobs that the server keeps (default: 200)")
    parser.add_argument("--slots", type=int, default=1, help="jobs that run at once (default: 1)")
    parser.add_argument("--burst", type=int, default=50, help="jobs submitted at once (default: 50)")
    parser.add_argument("--watchers", type=int, default=4, help="clients that watch jobs (default: 4)")
    parser.add_argument("--every", type=int, default=50, help="jobs between two samples of figures (default: 50)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Soak(Path(folder), arguments.keep, arguments.slots) as soak:
        verdict = soak.run(arguments.jobs, arguments.burst, arguments.watchers, arguments.every)
    for name, value in verdict.items():
        print(f"{name:24} {value}")
    if arguments.output:
        figures = {
            "what": "one-sample handwritten_digits jobs on an untrained tiny Idefics3, with watchers and cancellations",
            "jobs": arguments.jobs,
            "keep": arguments.keep,
            "slots": arguments.slots,
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg(),
            "platform": platform.platform(),
            "versions": {name: version(name) for name in ("torch", "transformers", "grpcio", "protobuf")},
            "verdict": verdict,
            "samples": [asdict(sample) for sample in soak.samples],
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if verdict["passed"] else 1


@dataclass(frozen=True)
class Sample:
    """What there was after so many jobs."""

    jobs: int
    seconds: float
    server_rss_mib: float
    server_descriptors: int
    server_threads: int
    template_rss_mib: float
    template_descriptors: int
    processes: int
    """Below the server, workers included."""
    state_bytes: int
    database_bytes: int
    log_bytes: int
    """Of the database's write-ahead log."""
    job_folders: int


class Soak:
    """A server, and what is done to it."""

    def __init__(self, folder: Path, keep: int, slots: int = 1) -> None:
        self.folder = folder
        self.keep = keep
        self.slots = slots
        self.state = folder / "state"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.samples: list[Sample] = []
        self.ends: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.random = random.Random(5)
        self._waiting: list[str] = []
        self._over = threading.Event()
        self._told = threading.Condition()

    def __enter__(self) -> Soak:
        self.checkpoint = make_checkpoint(self.folder / "checkpoint")
        address_file = self.folder / "address"
        flags = ("--port", "0", "--state-dir", str(self.state), "--address-file", str(address_file))
        flags += ("--max-completed-jobs", str(self.keep), "--log-level", "warning", *["--devices", "cpu"] * self.slots)
        with (self.folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lmms_eval_grpc", "serve", *flags],
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self.temporary)},
            )
        while not address_file.exists():
            if self.process.poll() is not None:
                raise SystemExit((self.folder / "server.log").read_text())
            time.sleep(0.01)
        self.address = address_file.read_text().strip()
        self.server = psutil.Process(self.process.pid)
        self.client = EvalClient(self.address)
        while not self.client.server_info().template_warm:
            time.sleep(0.05)
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        sys.stderr.write((self.folder / "server.log").read_text()[-4000:])

    def run(self, jobs: int, burst: int, watchers: int, every: int) -> dict[str, object]:
        """Submits the jobs, waits for their ends and returns the verdict."""
        before = self.sample(0)
        follower = threading.Thread(target=self._follow_queue, daemon=True)
        threads = [follower, *(threading.Thread(target=self._watch_jobs, daemon=True) for _ in range(watchers))]
        for thread in threads:
            thread.start()
        submitted: list[str] = []
        next_sample = every
        while len(submitted) < jobs or sum(self.ended.values()) < jobs:
            with self._told:
                self._told.wait(timeout=1.0)
            ended = len(self.ended)
            if len(submitted) < jobs and len(submitted) - ended < max(1, burst // 2):
                submitted += [self._submit() for _ in range(min(burst, jobs - len(submitted)))]
            if ended >= next_sample:
                self.sample(ended)
                next_sample = ended + every
        self._over.set()
        for thread in threads[1:]:
            thread.join()
        self._settle(before)
        self.sample(jobs)
        return self._verdict(before, submitted)

    def _submit(self) -> str:
        job = self.client.evaluate(
            model="idefics3",
            model_args={"pretrained": str(self.checkpoint)},
            tasks=["handwritten_digits"],
            limit=1,
        )
        job_id = str(job["job_id"])
        self._waiting.append(job_id)
        if self.random.random() < 0.025:
            self.client.cancel_job(job_id, "soak, while it waits")
        return job_id

    def _follow_queue(self) -> None:
        """Counts the ends of all jobs, and cancels some that have just begun to run."""
        with EvalClient(self.address) as client:
            for change in client.watch_queue():
                if not isinstance(change, QueueChange):
                    continue
                if has_ended(change.state):
                    self.ends[state_name(change.state)] += 1
                    self.ended[change.job_id] += 1
                    with self._told:
                        self._told.notify()
                elif state_name(change.state) == "running" and self.random.random() < 0.025:
                    client.cancel_job(change.job_id, "soak, while it runs")

    def _watch_jobs(self) -> None:
        """Watches one job after the other; breaks off every third time."""
        with EvalClient(self.address) as client:
            for number in self._numbers():
                if not self._waiting:
                    time.sleep(0.05)
                    continue
                for event in client.watch_job(self._waiting[-1]):
                    if number % 3 == 0 and event.HasField("progress"):
                        break

    def _numbers(self) -> Iterator[int]:
        number = 0
        while not self._over.is_set():
            number += 1
            yield number

    def sample(self, jobs: int) -> Sample:
        """Takes the figures of now, and prints them."""
        below = self.server.children(recursive=True)
        template = next((child for child in below if child.ppid() == self.server.pid), None)
        database = self.state / "jobs.sqlite3"
        with self.server.oneshot():
            sample = Sample(
                jobs=jobs,
                seconds=round(time.monotonic() - self.began, 1),
                server_rss_mib=round(self.server.memory_info().rss / MIB, 2),
                server_descriptors=self.server.num_fds(),
                server_threads=self.server.num_threads(),
                template_rss_mib=round(template.memory_info().rss / MIB, 2) if template else 0.0,
                template_descriptors=template.num_fds() if template else 0,
                processes=len(below),
                state_bytes=sum(size_of(path) for path in files_below(self.state)),
                database_bytes=size_of(database),
                log_bytes=size_of(database.with_name(f"{database.name}-wal")),
                job_folders=sum(1 for _ in (self.state / "jobs").glob("*")),
            )
        self.samples.append(sample)
        print(" ".join(f"{name}={value}" for name, value in asdict(sample).items()), flush=True)
        return sample

    def _settle(self, before: Sample) -> None:
        """Waits until the last worker is gone and retention has done its work, for at most a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            folders = sum(1 for _ in (self.state / "jobs").glob("*"))
            if len(self.server.children(recursive=True)) <= before.processes and folders <= self.keep:
                return
            time.sleep(0.1)

    def _verdict(self, before: Sample, submitted: list[str]) -> dict[str, object]:
        after = self.samples[-1]
        settled = [sample for sample in self.samples if sample.jobs >= WARM_UP * after.jobs]
        growth = slope([(sample.jobs / 1000, sample.server_rss_mib) for sample in settled])
        template_growth = slope([(sample.jobs / 1000, sample.template_rss_mib) for sample in settled])
        kept = after.job_folders
        half = [sample for sample in self.samples if sample.jobs >= after.jobs / 2]
        facts: dict[str, object] = {
            "ends": dict(self.ends),
            "every_job_ended_once": set(self.ended) == set(submitted) and set(self.ended.values()) == {1},
            "seconds_per_job": round(after.seconds / after.jobs, 3),
            "server_mib_per_1000_jobs": round(growth, 3),
            "template_mib_per_1000_jobs": round(template_growth, 3),
            "server_rss_mib": [before.server_rss_mib, after.server_rss_mib],
            "descriptors": [before.server_descriptors, after.server_descriptors],
            "template_descriptors": [before.template_descriptors, after.template_descriptors],
            "threads": [before.server_threads, after.server_threads],
            "processes": [before.processes, after.processes],
            "job_folders": kept,
            "largest_state_bytes": max(sample.state_bytes for sample in half),
            "largest_database_bytes": max(sample.database_bytes + sample.log_bytes for sample in half),
            "temporary_files_left": sum(1 for _ in self.temporary.rglob("*")),
        }
        facts["passed"] = (
            bool(facts["every_job_ended_once"])
            and self.ends["failed"] == 0
            and growth <= MOST_GROWTH
            and template_growth <= MOST_GROWTH
            # The connections of this program's own clients.
            and after.server_descriptors <= before.server_descriptors + 8
            and after.template_descriptors <= before.template_descriptors
            and after.server_threads <= before.server_threads + POOLED_THREADS
            and after.processes <= before.processes
            and kept <= self.keep
            and facts["temporary_files_left"] == 0
        )
        return facts


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line closest to the points; 0 for fewer than two."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def files_below(folder: Path) -> Iterator[Path]:
    """All files; folders may vanish meanwhile."""
    return (Path(root) / name for root, _, names in os.walk(folder) for name in names)


def make_checkpoint(folder: Path) -> Path:
    from tiny_vlm import build_model, build_processor

    processor = build_processor()
    build_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
