"""What the Trainer callback costs a training step, with the server on another core.

Trains the tiny vision-language model on real digits again and again, in turn without and with the callback, which
submits every checkpoint and collects the scores meanwhile; both ways save the same checkpoints. Compares the mean time
of a step, saves included, on the clock and in processor time of all of the trainer's threads; and tells what time of
the training thread the callback took itself, which a busy machine does not blur. The end of training, where the
callback waits, is no step.

    python benchmarks/trainer_overhead.py --rounds 6 --steps 120
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from transformers import TrainerCallback

from lmms_eval_grpc import EvalClient
from lmms_eval_grpc.integrations.transformers import EvalServiceCallback

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients" / "python"))

import train_digits


class Clock(TrainerCallback):
    """Between the ends of the first and the last step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    @property
    def per_step(self) -> tuple[float, float]:
        """Milliseconds on the clock and of processor time."""
        first, last, steps = self.marks[1], self.marks[-1], len(self.marks) - 2
        return (last[0] - first[0]) / steps * 1e3, (last[1] - first[1]) / steps * 1e3


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="pairs of runs")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument("--limit", type=int, default=100, help="samples per evaluation")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    scratch = Path(tempfile.mkdtemp(prefix="trainer-overhead-"))
    found: dict[str, list[tuple[float, float, float]]] = {"without": [], "with": []}
    try:
        os.sched_setaffinity(0, set(cores[1:]) or set(cores))  # what is started now stays there
        with _serving(scratch) as address:
            os.sched_setaffinity(0, {cores[0]})
            for number in range(arguments.rounds):
                for way in found if number % 2 else reversed(found):
                    found[way].append(_train(scratch / f"{number}-{way}", address, arguments, way == "with"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    figures = _summarise(found)
    print(json.dumps(figures, indent=2))
    if arguments.output is not None:
        given = {name: value for name, value in vars(arguments).items() if name != "output"}
        arguments.output.write_text(json.dumps({**_surroundings(), **given, **figures}, indent=2) + "\n")


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """The address of a server whose template is warm."""
    address_file = folder / "address"
    flags = ("--port", "0", "--state-dir", str(folder / "state"), "--address-file", str(address_file))
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "lmms_eval_grpc", "serve", *flags], stdout=log, stderr=log)
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


def _train(
    folder: Path, address: str, arguments: argparse.Namespace, with_callback: bool
) -> tuple[float, float, float]:
    """Milliseconds per step: on the clock, of processor time, and of the callback's own."""
    clock = Clock()
    callbacks: list[TrainerCallback] = [clock]
    service = TimedCallback(address, model="idefics3", tasks=["handwritten_digits"], limit=arguments.limit)
    if with_callback:
        callbacks.append(service)
    saves = range(arguments.save_every, arguments.steps + 1, arguments.save_every)
    train_digits.train(folder, steps=arguments.steps, save_steps=saves, callbacks=callbacks, quiet=True)
    lost = [result for result in service.results if result.state != "completed"]
    assert not lost, lost
    assert bool(service.results) == with_callback
    shutil.rmtree(folder)
    return *clock.per_step, service.seconds / arguments.steps * 1e3


def _summarise(found: dict[str, list[tuple[float, float, float]]]) -> dict[str, Any]:
    """Medians over the rounds, and the median of what each round's pair differs by."""
    figures: dict[str, Any] = {}
    for place, name in enumerate(("wall_ms_per_step", "cpu_ms_per_step")):
        rises = [
            100 * (after[place] / before[place] - 1)
            for before, after in zip(found["without"], found["with"], strict=True)
        ]
        figures[name] = {way: round(statistics.median(run[place] for run in runs), 3) for way, runs in found.items()}
        figures[name]["rise_percent"] = round(statistics.median(rises), 2)
        figures[name]["rise_percent_by_round"] = [round(rise, 2) for rise in rises]
    own = statistics.median(run[2] for run in found["with"])
    figures["callback_ms_per_step"] = round(own, 4)
    figures["callback_percent_of_step"] = round(100 * own / figures["wall_ms_per_step"]["without"], 3)
    return figures


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
