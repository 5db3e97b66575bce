"""Evaluates the scoring task with a model that answers at once, in lmms-eval; prints wall and CPU seconds and
the scores as JSON.

Runs in lmms-eval's environment, never by hand: python scoring_theirs.py TASKS SAMPLES FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from lmms_eval import evaluator
from lmms_eval.__main__ import parse_eval_args
from lmms_eval.api.model import lmms
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.tasks import TaskManager

TASK = "bench_scoring"


class Answering(lmms):
    """Says the same to every request."""

    is_simple = False

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def generate_until(self, requests: list[Any]) -> list[str]:
        answers = []
        for request in requests:
            _, doc_to_messages, _, doc_id, task, split = request.args
            if doc_to_messages(self.task_dict[task][split][doc_id]):
                answers.append("I think that it is 7.")
        return answers

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> Any:
        raise NotImplementedError


def main() -> None:
    tasks, samples, folder = sys.argv[1:]
    os.chdir(folder)
    sys.modules["scoring_theirs"] = sys.modules[__name__]
    MODEL_REGISTRY_V2.register_manifest(ModelManifest(model_id="answering", chat_class_path="scoring_theirs.Answering"))
    sys.argv = [sys.argv[0], "--model", "answering", "--tasks", TASK, "--output_path", folder]
    _, arguments = parse_eval_args()
    # The scan of its task files is measured elsewhere.
    manager = TaskManager("ERROR", include_path=tasks, model_name="answering")
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    found = evaluator.simple_evaluate(
        model="answering",
        model_args="",
        tasks=[TASK],
        task_manager=manager,
        limit=int(samples),
        batch_size=1,
        device="cpu",
        log_samples=True,
        cli_args=arguments,
    )
    spent = [time.perf_counter() - wall, sum(os.times()[:4]) - cpu]
    results = found["results"][TASK]
    scores = {name: results[name] for name in ("correct,number", "percent,number")}
    print()
    print(json.dumps([*spent, scores]))


if __name__ == "__main__":
    main()
