"""What the Trainer callback costs a training step, with the server on another core.

Trains the tiny vision-language model on real digits again and again, in three ways that take turns in random order:

* ``alone``: no callback, and the server has nothing to do;
* ``beside``: no callback, while another process submits the same checkpoints to the server as they are saved;
* ``callback``: the callback submits them, and collects the scores meanwhile.

All three save the same checkpoints, inside the steps that are timed. The trainer has one core, with all its threads;
the server, its workers and the submitting process have the others; nobody's torch has more than one thread. So
``callback`` over ``alone`` is what a user sees, ``beside`` over ``alone`` the part of it that cores share whoever
submits (caches, memory, the disk), and ``callback`` over ``beside`` what the callback itself costs.

Compares the mean time of a step, on the clock and in processor time of all of the trainer's threads. Also tells what
the callback took of the training thread by itself, and what the trainer's other threads took of the processor; a busy
machine blurs these less. The end of training, where the callback waits, is no step.

    python benchmarks/trainer_overhead.py --rounds 6 --steps 120
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import psutil
from transformers import TrainerCallback

from lmms_eval_grpc import EvalClient
from lmms_eval_grpc.integrations.results import CheckpointResult
from lmms_eval_grpc.integrations.tracker import EvalTracker
from lmms_eval_grpc.integrations.transformers import EvalServiceCallback

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients" / "python"))

import train_digits

ARMS = ("alone", "beside", "callback")
COMPARED = (("callback", "alone"), ("callback", "beside"), ("beside", "alone"))
MODEL, TASK = "idefics3", "handwritten_digits"


@dataclass(frozen=True)
class Run:
    """Milliseconds per step of one training run."""

    wall: float
    cpu: float
    """Of all threads."""
    other_threads_cpu: float
    """Of all threads but the training one."""
    callback: float
    """Of the training thread, on the clock, inside the callback."""


class Clock(TrainerCallback):
    """Between the beginnings of the second and the last step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.marks.append((time.perf_counter(), time.process_time(), time.thread_time()))

    def read(self, callback_seconds: float) -> Run:
        steps = len(self.marks) - 2
        wall, cpu, main = (
            (last - first) / steps * 1e3 for first, last in zip(self.marks[1], self.marks[-1], strict=True)
        )
        return Run(wall, cpu, cpu - main, callback_seconds / len(self.marks) * 1e3)


class TimedCallback(EvalServiceCallback):
    """Adds up what its methods take of the training thread, up to the end of training."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = 0.0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        super().on_step_end(*args, **kwargs)
        self.seconds += time.perf_counter() - began

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        super().on_save(*args, **kwargs)
        self.seconds += time.perf_counter() - began


class TellSubmitter(TrainerCallback):
    """Writes the checkpoints that are saved to another process, which submits them."""

    def __init__(self, submitter: subprocess.Popen[str]) -> None:
        self._submitter = submitter

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._write(f"{state.global_step} {args.output_dir}/checkpoint-{state.global_step}")

    def drain(self) -> None:
        self._write("drain")
        assert self._submitter.stdout is not None
        said = self._submitter.stdout.readline()
        assert said == "drained\n", said

    def _write(self, line: str) -> None:
        assert self._submitter.stdin is not None
        self._submitter.stdin.write(f"{line}\n")
        self._submitter.stdin.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="runs of each way (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="of each run (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=20, help="steps (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=100, help="samples per evaluation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of runs (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--submit-to", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.submit_to:
        submit(arguments.submit_to, arguments.limit, sys.stdin)
        return
    scratch = Path(tempfile.mkdtemp(prefix="trainer-overhead-"))
    began = time.monotonic()
    try:
        found = measure(scratch, arguments)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    figures = {**summarise(found), "seconds": round(time.monotonic() - began)}
    print(json.dumps({name: value for name, value in figures.items() if name != "runs"}, indent=1))
    if arguments.output is not None:
        given = {name: getattr(arguments, name) for name in ("rounds", "steps", "save_every", "limit", "seed")}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({**_surroundings(), **given, **figures}, indent=1) + "\n")


def measure(scratch: Path, arguments: argparse.Namespace) -> dict[str, list[Run]]:
    """The runs of each way; those of one round have the same place in their lists."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("the trainer and the server need a core each, and this process may use one only")
    found: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    pin(cores[1:])  # what is started now stays there
    with serving(scratch) as address, submitting(address, arguments.limit) as submitter:
        pin(cores[:1])
        train(scratch / "warm-up", address, submitter, arguments, "callback")
        order = random.Random(arguments.seed)
        for number in range(arguments.rounds):
            for arm in order.sample(ARMS, len(ARMS)):
                found[arm].append(train(scratch / f"{number}-{arm}", address, submitter, arguments, arm))
    return found


def pin(cores: Sequence[int]) -> None:
    """Keeps this process to ``cores``, with the threads that it has and those that these will start."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server whose template is warm."""
    address_file = folder / "address"
    flags = ("--port", "0", "--state-dir", str(folder / "state"), "--address-file", str(address_file))
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "lmms_eval_grpc", "serve", *flags], stdout=log, stderr=log, env=_one_thread()
        )
    try:
        while not address_file.exists():
            if server.poll() is not None:
                raise SystemExit((folder / "server.log").read_text())
            time.sleep(0.01)
        address = address_file.read_text().strip()
        with EvalClient(address) as client:
            client.wait_for_ready(timeout=60)
            while not client.server_info().template_warm:
                time.sleep(0.05)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


@contextmanager
def submitting(address: str, limit: int) -> Iterator[subprocess.Popen[str]]:
    """A process that submits the checkpoints it is told of, as the callback would."""
    command = [sys.executable, __file__, "--submit-to", address, "--limit", str(limit)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_one_thread()
    ) as submitter:
        try:
            TellSubmitter(submitter).drain()
            yield submitter
        finally:
            assert submitter.stdin is not None
            submitter.stdin.close()


def submit(address: str, limit: int, lines: IO[str]) -> None:
    """The submitting process: ``<step> <folder>`` submits a checkpoint, ``drain`` waits for all and says so."""
    tracker = EvalTracker(address, model=MODEL, tasks=[TASK], limit=limit)
    for line in lines:
        if line == "drain\n":
            tracker.drain()
            _check_completed(tracker.results)
            print("drained", flush=True)
        else:
            step, _, folder = line.rstrip("\n").partition(" ")
            tracker.submit(int(step), folder)
            tracker.harvest()


def train(folder: Path, address: str, submitter: subprocess.Popen[str], arguments: argparse.Namespace, arm: str) -> Run:
    clock = Clock()
    service = TimedCallback(address, model=MODEL, tasks=[TASK], limit=arguments.limit)
    teller = TellSubmitter(submitter)
    own: dict[str, list[TrainerCallback]] = {"alone": [], "beside": [teller], "callback": [service]}
    saves = range(arguments.save_every, arguments.steps + 1, arguments.save_every)
    train_digits.train(folder, steps=arguments.steps, save_steps=saves, callbacks=[clock, *own[arm]], quiet=True)
    teller.drain()
    _check_completed(service.results)
    assert bool(service.results) == (arm == "callback")
    shutil.rmtree(folder)
    return clock.read(service.seconds)


def summarise(found: dict[str, list[Run]]) -> dict[str, Any]:
    """Medians over the rounds, and of what each round's runs differ by, with the least and the most; and what the mean
    over all rounds differs by, with the ends of the 95 % interval of a bootstrap over the rounds."""
    figures: dict[str, Any] = {
        "unit": "milliseconds per step, saves included: [median, least, most]; rises in percent",
        "ways": {
            arm: {name: _spread([getattr(run, name) for run in runs]) for name in ("wall", "cpu", "other_threads_cpu")}
            for arm, runs in found.items()
        },
    }
    for arm, other in COMPARED:
        pairs = list(zip(found[arm], found[other], strict=True))
        figures[f"{arm}_over_{other}"] = {
            "mean_wall_percent": _rise([(run.wall, base.wall) for run, base in pairs]),
            "wall_percent": _spread([100 * (run.wall / base.wall - 1) for run, base in pairs]),
            "cpu_percent": _spread([100 * (run.cpu / base.cpu - 1) for run, base in pairs]),
        }
    taken = [run.callback for run in found["callback"]]
    alone = statistics.median(run.wall for run in found["alone"])
    figures["inside_the_callback"] = {
        "ms_per_step": _spread(taken),
        "percent_of_step": _spread([100 * own / alone for own in taken]),
    }
    figures["runs"] = {arm: [asdict(run) for run in runs] for arm, runs in found.items()}
    return figures


def _rise(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """By how many percent the mean of the first ones is above that of the second ones, and from where to where that may
    be by chance."""

    def rise(drawn: Sequence[tuple[float, float]]) -> float:
        return 100 * (sum(first for first, _ in drawn) / sum(second for _, second in drawn) - 1)

    draw = random.Random(0)
    drawn = sorted(rise(draw.choices(pairs, k=len(pairs))) for _ in range(10_000))
    return [round(value, 4) for value in (rise(pairs), drawn[250], drawn[9749])]


def _spread(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in (statistics.median(values), min(values), max(values))]


def _check_completed(results: Sequence[CheckpointResult]) -> None:
    lost = [result for result in results if result.state != "completed"]
    assert not lost, lost


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _surroundings() -> dict[str, Any]:
    return {
        "date": datetime.now().isoformat(timespec="seconds"),
        "cores": psutil.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "grpcio")},
    }


if __name__ == "__main__":
    main()
