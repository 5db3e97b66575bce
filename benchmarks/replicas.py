"""Two replicas with a thread each against one: the generation of the same requests, and what starting them costs.

Runs side by side, in turns, because the machine drifts. Needs two idle cores; a second replica cannot help on one.

    python benchmarks/replicas.py [--checkpoint FOLDER] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "clients" / "python"))

os.environ.setdefault("OMP_NUM_THREADS", "1")

RUNS = 5
SAMPLES = 360
NEW_TOKENS = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="an Idefics3 checkpoint; without it a tiny one is made")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(options.checkpoint or make_checkpoint(Path(name)), Path(name))
    print("| replicas | load, s | generation, s (median) | samples/s |\n|---|---|---|---|")
    for row in figures["rows"]:
        print(
            f"| {row['replicas']} | {row['load']:.2f} | {row['generation']:.2f} | {SAMPLES / row['generation']:.0f} |"
        )
    print(f"\nspeed-up by the second replica: {figures['speedup']:.2f} (ratios: {figures['ratios']})")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def make_checkpoint(folder: Path) -> Path:
    import tiny_vlm

    processor = tiny_vlm.build_processor()
    checkpoint = folder / "checkpoint"
    tiny_vlm.build_model(processor).save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    return checkpoint


def measure(checkpoint: Path, folder: Path) -> dict[str, Any]:
    import torch

    from lmms_eval_grpc.engine.api import EvaluationConfig
    from lmms_eval_grpc.engine.run.evaluate import evaluate, load_backend

    loads, backends = {}, {}
    for replicas in (1, 2):
        torch.set_num_threads(replicas)
        config = EvaluationConfig(
            "idefics3", ("handwritten_digits",), {"pretrained": str(checkpoint)}, num_gpus=replicas, batch_size=16,
            limit=SAMPLES, gen_kwargs={"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS},
        )  # fmt: skip
        began = time.perf_counter()
        backends[replicas] = config, load_backend(config)
        loads[replicas] = time.perf_counter() - began
    torch.set_num_threads(1)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for run in range(RUNS + 1):  # the first warms up
        for replicas, (config, backend) in backends.items():
            outcome = evaluate(config, folder / f"{replicas}-{run}", Silence(), backend=backend)
            if run:
                seconds[replicas].append(outcome.stage_seconds["generating"])
    for _, backend in backends.values():
        backend.close()
    rows = [
        {"replicas": replicas, "load": loads[replicas], "generation": statistics.median(seconds[replicas])}
        for replicas in (1, 2)
    ]
    ratios = [round(one / two, 2) for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {"rows": rows, "ratios": ratios, "speedup": statistics.median(ratios), "load_average": os.getloadavg()}


class Silence:
    """A reporter that wants to know nothing."""

    def progress(self, report: object) -> None: ...

    def task_finished(self, score: object) -> None: ...

    def cancelled(self) -> bool:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
