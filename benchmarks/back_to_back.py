"""How long a device idles between two jobs that were both waiting, and where that time goes.

Starts a server of its own on one CPU slot, in each of three ways: nothing is done ahead; the next job is prepared while
one runs (the default); the model stays loaded as well. Submits all jobs at once: different checkpoints of one
architecture, an untrained tiny Idefics3. The device idles from the end of a job's last batch to the beginning of the
next one's first. Then a queue of jobs of one sample each. All times are seconds.

    python benchmarks/back_to_back.py --jobs 12 --one-sample-jobs 50
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file, save_file
from turnaround import make_checkpoint

from lmms_eval_grpc import EvalClient

WAYS: dict[str, tuple[str, ...]] = {
    "nothing_ahead": ("--no-prepare-next",),
    "prepared": (),
    "model_kept": ("--keep-model-warm", "60"),
}

STEPS = ("scored", "written", "worker_gone", "recorded", "worker_told", "first_batch")
"""What happens between the end of one job's last batch and the beginning of the next one's first, in order."""

_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+ (.*)$", re.MULTILINE)
_WORKED = re.compile(r"the model worked from ([\d.]+) to ([\d.]+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12, help="jobs of which each is another checkpoint")
    parser.add_argument("--samples", type=int, default=64, help="per job")
    parser.add_argument("--tasks", nargs="+", default=["handwritten_digits"])
    parser.add_argument("--one-sample-jobs", type=int, default=50)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {
        "what": f"{arguments.jobs} checkpoints of an untrained tiny Idefics3, {arguments.samples} samples of"
        f" {' and '.join(arguments.tasks)} each, on one CPU slot",
        "unit": "seconds",
        "cpus": os.cpu_count(),
        "load_average_before": os.getloadavg(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "transformers", "grpcio", "protobuf")},
        "between_jobs": {},
        "one_sample_jobs": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = make_checkpoints(Path(folder), arguments.jobs)
        for way in arguments.ways:
            with running_server(Path(folder) / way, WAYS[way]) as (client, jobs_dir, server):
                cpu_before = cpu_seconds(server)
                jobs = run_all(client, checkpoints, arguments.tasks, arguments.samples)
                cpu = (cpu_seconds(server) - cpu_before) / len(jobs)
                gaps = [gap(client, jobs_dir, *pair) for pair in itertools.pairwise(jobs)]
                figures["between_jobs"][way] = summarize(gaps) | {"cpu_seconds_per_job": cpu}
                if arguments.one_sample_jobs:
                    began, cpu_before = time.perf_counter(), cpu_seconds(server)
                    count = arguments.one_sample_jobs
                    run_all(client, [checkpoints[0]] * count, arguments.tasks[:1], 1)
                    figures["one_sample_jobs"][way] = {
                        "jobs": count,
                        "seconds_per_job": (time.perf_counter() - began) / count,
                        "cpu_seconds_per_job": (cpu_seconds(server) - cpu_before) / count,
                    }
            show(way, figures)
    figures["load_average_after"] = os.getloadavg()
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


def make_checkpoints(folder: Path, count: int) -> list[Path]:
    """So many checkpoints of one architecture, with different weights."""
    first = make_checkpoint(folder / "checkpoint-0")
    weights = load_file(first / "model.safetensors")
    made = [first]
    for number in range(1, count):
        made.append(shutil.copytree(first, folder / f"checkpoint-{number}"))
        changed = {name: tensor * (1 + number / 1000) for name, tensor in weights.items()}
        save_file(changed, made[-1] / "model.safetensors", metadata={"format": "pt"})
    return made


@contextmanager
def running_server(folder: Path, flags: Sequence[str]) -> Iterator[tuple[EvalClient, Path, psutil.Process]]:
    """A warm server with one CPU slot: a client of it, the folder of its jobs, and its process."""
    folder.mkdir()
    address_file, state = folder / "address", folder / "state"
    command = [sys.executable, "-m", "lmms_eval_grpc", "serve", "--port", "0", "--devices", "cpu", *flags]
    command += ["--state-dir", str(state), "--address-file", str(address_file)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait(lambda: address_file.exists() or server.poll() is not None)
        if server.poll() is not None:
            raise SystemExit((folder / "server.log").read_text())
        with EvalClient(address_file.read_text().strip()) as client:
            client.wait_for_ready(timeout=60)
            wait(lambda: client.server_info().template_warm)
            yield client, state / "jobs", psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def cpu_seconds(server: psutil.Process) -> float:
    """What the server, its template and its workers, those that are gone included, have used: other than seconds by the
    clock, it hardly depends on what else the machine does."""
    return sum(sum(process.cpu_times()[:4]) for process in (server, *server.children(recursive=True)))


def wait(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.01)


def run_all(client: EvalClient, checkpoints: Sequence[Path], tasks: Sequence[str], samples: int) -> list[str]:
    """Submits a job per checkpoint, all at once; returns their ids once all have completed."""
    jobs = [
        client.evaluate(model="idefics3", model_args={"pretrained": str(checkpoint)}, tasks=list(tasks), limit=samples)[
            "job_id"
        ]
        for checkpoint in checkpoints
    ]
    for job_id in jobs:
        for _ in client.watch_job(job_id):
            pass
        job = client.get(job_id)
        if not job.HasField("evaluation_result"):
            raise SystemExit(f"job {job_id} did not complete: {job.error.message}\n{job.error.log_tail}")
    return jobs


def gap(client: EvalClient, jobs_dir: Path, before: str, after: str) -> dict[str, float]:
    """Seconds of each step from one job to the next; their sum is how long the device was idle."""
    earlier, later = client.get(before), client.get(after)
    told, stopped = read_log(jobs_dir / before), read_log(jobs_dir / after)
    times = [
        told["worked"][1],
        told["stage: writing"],
        told["completed"],
        earlier.end_time.ToNanoseconds() / 1e9,
        later.start_time.ToNanoseconds() / 1e9,
        stopped["stage: loading_model"],
        stopped["worked"][0],
    ]
    steps = dict(zip(STEPS, (end - begin for begin, end in itertools.pairwise(times)), strict=True))
    return {"idle": times[-1] - times[0], **steps}


def read_log(job_dir: Path) -> dict[str, Any]:
    """When a worker said what, in seconds since the epoch, and when its model worked."""
    text = (job_dir / "worker.log").read_text()
    said: dict[str, Any] = {}
    for stamp, message in _STAMP.findall(text):
        at = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
        for what in ("stage: writing", "stage: loading_model", "completed"):
            if f": {what}" in message:
                said[what] = at
    found = _WORKED.search(text)
    assert found is not None, text
    said["worked"] = (float(found[1]), float(found[2]))
    return said


def summarize(gaps: Sequence[dict[str, float]]) -> dict[str, Any]:
    names = ("idle", *STEPS)
    return {
        "boundaries": len(gaps),
        "median": {name: statistics.median(one[name] for one in gaps) for name in names},
        "quartiles": {name: statistics.quantiles([one[name] for one in gaps], n=4)[::2] for name in names},
        "largest": {name: max(one[name] for one in gaps) for name in names},
        "all_idle": [one["idle"] for one in gaps],
    }


def show(way: str, figures: dict[str, Any]) -> None:
    found = figures["between_jobs"][way]
    cpu, load = found["cpu_seconds_per_job"], os.getloadavg()[0]
    print(f"\n{way}, {found['boundaries']} boundaries, {cpu:.2f} CPU seconds per job (load {load:.1f})")
    print(f"{'':14}{'median':>9}{'quartiles':>18}{'largest':>9}")
    for name, median in found["median"].items():
        low, high = found["quartiles"][name]
        print(f"{name:14}{median:9.3f}{low:9.3f}{high:9.3f}{found['largest'][name]:9.3f}")
    if way in figures["one_sample_jobs"]:
        short = figures["one_sample_jobs"][way]
        print(f"one-sample jobs: {short['seconds_per_job']:.3f} each, {short['cpu_seconds_per_job']:.2f} CPU seconds")


if __name__ == "__main__":
    main()
