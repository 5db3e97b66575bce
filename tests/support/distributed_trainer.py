"""A Trainer in one of two processes (``python -m torch.distributed.run``) that is to stop early.

Arguments: the server's address, the run's folder. Each process prints ``RANK STEP SUBMITTED``: where it stopped, and
how many checkpoints it submitted.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lmms_eval_grpc.integrations.transformers import EvalServiceCallback
from tests.support.trainer_runs import SCORE, TASK, run_trainer


def main(address: str, folder: str) -> None:
    service = EvalServiceCallback(
        address,
        model="idefics3",
        tasks=[TASK],
        limit=2,
        every_steps=1,
        best_metric=SCORE,
        early_stopping_patience=1,
        early_stopping_threshold=1.0,
    )

    class WaitForScores(TrainerCallback):  # type: ignore[misc]
        def on_save(self, *_: Any, **__: Any) -> None:
            while not all(result.ended for result in service.results):
                time.sleep(0.05)

    trainer = run_trainer(Path(folder), [service, WaitForScores()], max_steps=40, ddp_backend="gloo")
    line = f"{os.environ['RANK']} {trainer.state.global_step} {len(service.results)}\n"
    os.write(1, line.encode())  # whole: both processes write to one pipe


if __name__ == "__main__":
    main(*sys.argv[1:])
