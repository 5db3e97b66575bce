"""Evaluates the scoring task with a model that answers at once, in this engine; prints wall and CPU seconds and the
scores as JSON.

python -m benchmarks.suite.scoring_ours TASKS SAMPLES FOLDER
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite.inputs import SCORING_REPLICATES, SCORING_TASK
from lmms_eval_grpc.engine.api import EvaluationConfig, ProgressReport, TaskScore
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Capabilities,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
)
from lmms_eval_grpc.engine.run.evaluate import evaluate
from lmms_eval_grpc.engine.tasks.load import load

BATCH = 1000


class Answering:
    """Says the same to every request, a thousand at a time."""

    capabilities = Capabilities(modalities=frozenset({"text"}))
    identity: Mapping[str, Any] = {"backend": "answering"}

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        said = GenerationResponse("I think that it is 7.")
        for start in range(0, len(requests), BATCH):
            # A backend looks at what it answers: each prompt is made.
            indices = range(start, min(start + BATCH, len(requests)))
            yield [Answer(index, said) for index in indices if requests[index].messages]

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Silent:
    """Hears what an evaluation says of itself."""

    def progress(self, report: ProgressReport) -> None:
        pass

    def task_finished(self, score: TaskScore) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def main() -> None:
    tasks, samples, folder = sys.argv[1:]
    # What an evaluation imports late is imported before the clock runs.
    for module in ("datasets", "jinja2", "numpy", "torch"):
        importlib.import_module(module)
    config = EvaluationConfig(
        model="huggingface",
        tasks=(SCORING_TASK,),
        include_paths=(Path(tasks),),
        limit=int(samples),
        bootstrap_iters=SCORING_REPLICATES,
        output_dir=Path(folder) / "output",
    )
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    loaded = load(config)
    outcome = evaluate(
        config, Path(folder) / "run", Silent(), tasks=loaded.tasks, groups=loaded.groups, backend=Answering()
    )
    spent = [time.perf_counter() - wall, sum(os.times()[:4]) - cpu]
    scores = {f"{metric.name},{metric.filter}": metric.value for metric in outcome.tasks[0].metrics}
    print(json.dumps([*spent, scores]))


if __name__ == "__main__":
    main()
