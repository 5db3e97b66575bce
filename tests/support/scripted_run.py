"""Evaluates the task ``toy`` with a scripted model, in a process of its own.

Arguments: folder of the task, run directory, number of samples after which to print that number and stand still, so
that a test can kill it there (-1: runs to the end and prints the score), and the folder of a response cache, if any.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.run.evaluate import evaluate
from tests.support.backends import ScriptedBackend
from tests.support.stuck_run import StandStill


def config_for(tasks: Path, cache: Path | None = None) -> EvaluationConfig:
    return EvaluationConfig("idefics3", ("toy",), {"pretrained": "none"}, include_paths=(tasks,), use_cache=cache)


def echo(text: str) -> str:
    return text.upper()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    tasks, run_dir = map(Path, sys.argv[1:3])
    samples = int(sys.argv[3])
    config = config_for(tasks, Path(sys.argv[4]) if len(sys.argv) > 4 else None)
    reporter = StandStill(samples if samples >= 0 else sys.maxsize)
    outcome = evaluate(config, run_dir, reporter, backend=ScriptedBackend(echo))
    print(outcome.tasks[0].metrics[0].value)
