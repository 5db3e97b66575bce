"""A Hugging Face Trainer whose checkpoints are evaluated while it goes on training.

    python clients/python/trainer.py ADDRESS OUTPUT_DIR [STEPS]

The callback submits every checkpoint, never waits for the server during a step, and logs each score at the step that it
belongs to.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lmms_eval_grpc.integrations.transformers import EvalServiceCallback
from train_digits import train


def main(address: str, output_dir: str, steps: str = "300") -> None:
    callback = EvalServiceCallback(address, model="huggingface", tasks=["handwritten_digits"])
    train(Path(output_dir), steps=int(steps), save_steps=(0, int(steps) // 2, int(steps)), callbacks=[callback])
    for result in callback.results:
        print(
            f"step {result.step}: {result.state}", *(f"{metric.name} = {metric.value:.4f}" for metric in result.metrics)
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
