"""Evaluates like a worker, and stands still once enough samples are done, so that a test can kill it there.

Arguments: checkpoint, run directory, number of samples after which to stand still, devices (default: 1). Prints that
number when it does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from lmms_eval_grpc.engine.api import EvaluationConfig, ProgressReport, TaskScore
from lmms_eval_grpc.engine.run.evaluate import evaluate

MANY: dict[str, object] = {"limit": 200, "batch_size": 8}


class StandStill:
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def progress(self, report: ProgressReport) -> None:
        if report.samples_done >= self.samples:
            print(report.samples_done, flush=True)
            time.sleep(600)

    def task_finished(self, score: TaskScore) -> None: ...

    def cancelled(self) -> bool:
        return False


def digits_config(checkpoint: Path, **changes: object) -> EvaluationConfig:
    """Sixty digits in batches of four."""
    settings: dict[str, object] = {"limit": 60, "batch_size": 4}
    return EvaluationConfig(
        "idefics3",
        ("handwritten_digits",),
        {"pretrained": str(checkpoint)},
        **(settings | changes),  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = digits_config(Path(sys.argv[1]), **MANY, num_gpus=int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    evaluate(config, Path(sys.argv[2]), StandStill(int(sys.argv[3])))
