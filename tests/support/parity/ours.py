"""This engine's side: the same documents and the same answers, in the same recorded form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationOutcome
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Backend,
    Capabilities,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
)
from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from lmms_eval_grpc.engine.tasks.load import load
from lmms_eval_grpc.engine.tasks.task import Task
from tests.support.parity.reader import render
from tests.support.parity.recorded import Recorded, Sample, TaskResult
from tests.support.parity.store import loader
from tests.support.reporters import Recorder


class AnsweringBackend:
    """Answers each request by a function of its messages, one after the other."""

    def __init__(self, answer: Callable[[Sequence[Mapping[str, Any]]], str]) -> None:
        self._answer = answer

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(modalities=frozenset({"text", "image", "video", "audio"}))

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"backend": "parity"}

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        for index in range(len(requests)):
            yield [Answer(index, GenerationResponse(self._answer(requests[index].messages)))]

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def run(
    data: Path,
    run_dir: Path,
    names: Sequence[str],
    *,
    backend: Backend | None,
    definitions: Path | None,
    model: str = "parity_reader",
    model_args: Mapping[str, Any] | None = None,
) -> Recorded:
    """Evaluates ``names`` over the data sets below ``data``, which :func:`documents.write_all` made.

    With ``definitions``, a folder of lmms-eval's task files, those are run, else the ones that ship with this package.
    """
    config = EvaluationConfig(
        model=model,
        tasks=tuple(names),
        model_args=dict(model_args or {}),
        include_paths=(definitions,) if definitions is not None else (),
        override_tasks=definitions is not None,
        num_fewshot=0,
        batch_size=1,
        output_dir=run_dir / "results",
    )
    with standing_for_the_hub(data):
        loaded = load(config)
        outcome = evaluate(config, run_dir, Recorder(), tasks=loaded.tasks, groups=loaded.groups, backend=backend)
        lines = (run_dir / SAMPLES).read_text().splitlines()
        return _recorded(outcome, loaded.tasks, [SampleRecord.from_json(line) for line in lines])


@contextmanager
def standing_for_the_hub(data: Path) -> Iterator[None]:
    """While it lasts, data sets and films come from below ``data``."""
    kept, home = datasets.load_dataset, os.environ.get("HF_HOME")
    datasets.load_dataset = loader(data)
    os.environ["HF_HOME"] = str(data / "home")
    try:
        yield
    finally:
        datasets.load_dataset = kept
        if home is None:
            del os.environ["HF_HOME"]
        else:
            os.environ["HF_HOME"] = home


def _recorded(outcome: EvaluationOutcome, tasks: Sequence[Task], records: Sequence[SampleRecord]) -> Recorded:
    rows = outcome.results_document["results"]
    by_task: Recorded = {name: TaskResult(results=row, samples=[]) for name, row in rows.items()}
    tasks_by_name = {task.name: task for task in tasks}
    for record in sorted(records, key=lambda record: record.doc_id):
        messages = tasks_by_name[record.task].build_request(record.doc_id).messages
        by_task[record.task]["samples"].append(
            Sample(
                doc_id=record.doc_id,
                filter=record.filter,
                prompt=record.prompt,
                rendered=json.loads(json.dumps(render(messages))),
                responses=list(record.responses),
                filtered=list(record.filtered_responses),
                target=record.target,
                scores=dict(record.scores),
            )
        )
    return by_task
