"""Scoring stored responses, without a model: after a change of a scorer, or after a run that only predicted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError, EvaluationOutcome, TaskScore
from lmms_eval_grpc.engine.judge.usage import USAGE
from lmms_eval_grpc.engine.record.manifest import build_manifest
from lmms_eval_grpc.engine.record.publication import writing_to
from lmms_eval_grpc.engine.record.results import write_results
from lmms_eval_grpc.engine.record.samples import SampleRecord, scored_records, unscored_record
from lmms_eval_grpc.engine.record.stored import StoredSample, read_samples
from lmms_eval_grpc.engine.record.usage import judges
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
from lmms_eval_grpc.engine.scoring.groups import aggregate_groups
from lmms_eval_grpc.engine.scoring.pool import score_samples
from lmms_eval_grpc.engine.scoring.process import ScoringError
from lmms_eval_grpc.engine.tasks.load import load
from lmms_eval_grpc.engine.tasks.task import Task


@dataclass(frozen=True, slots=True)
class RescoredTask:
    """One task's new scores."""

    score: TaskScore
    records: tuple[SampleRecord, ...]
    """In the order of the documents."""


def rescore(config: EvaluationConfig, samples_paths: Sequence[Path], output_dir: Path) -> EvaluationOutcome:
    """Scores the responses in ``samples_paths`` by the tasks of ``config``, and writes results and samples anew.

    The files are those that an evaluation left, of this package or of lmms-eval; each task is scored over the documents
    that are in them. ``config.model`` and ``model_args`` name the model that made the responses; it is not loaded.

    Raises EvaluationError: what loading tasks raises, RECORD_UNREADABLE, NO_DOCUMENTS for a task without samples,
    DOCUMENTS_DIFFER where the task's documents are not those that were answered, and OUTPUT_NOT_WRITABLE.
    """
    started, loaded = datetime.now(UTC), load(config)
    USAGE.reset()
    stored: dict[str, list[StoredSample]] = {task.name: [] for task in loaded.tasks}
    for path in samples_paths:
        for sample in read_samples(path):
            if sample.task in stored:
                stored[sample.task].append(sample)
    rescored = [rescore_task(task, stored[task.name]) for task in loaded.tasks]
    scores = [one.score for one in rescored]
    groups = aggregate_groups(loaded.groups, scores)
    doc_ids = {name: sorted({sample.doc_id for sample in samples}) for name, samples in stored.items()}
    manifest = build_manifest(config, loaded.tasks, {"backend": "none: stored responses"}, doc_ids=doc_ids)
    manifest["judges"] = judges()
    manifest["rescored_from"] = [path.name for path in samples_paths]
    with writing_to(output_dir):
        written = write_results(
            config,
            loaded.tasks,
            scores,
            {one.score.task: one.records for one in rescored},
            manifest,
            output_dir,
            started=started,
            finished=datetime.now(UTC),
            groups=groups,
        )
    return EvaluationOutcome(
        tasks=tuple(scores),
        results_document=written.document,
        results_path=written.results_path,
        samples_paths=written.samples_paths,
        manifest=manifest,
        groups=groups,
    )


def rescore_task(task: Task, samples: Iterable[StoredSample]) -> RescoredTask:
    """The scores of ``task`` over ``samples``, which are of this task; of several of a document the first counts.

    A sample without responses, as a model's error leaves it, stays an error, and one that was left out for want of
    tokens is left out again. Raises EvaluationError NO_DOCUMENTS,
    DOCUMENTS_DIFFER or AGGREGATION_FAILED.
    """
    began = time.monotonic()
    by_document: dict[int, StoredSample] = {}
    for sample in samples:
        by_document.setdefault(sample.doc_id, sample)
    if not by_document:
        raise EvaluationError("NO_DOCUMENTS", f"task {task.name}: there are no stored samples of it; check the files")
    answers: dict[int, list[Any]] = {}
    common: dict[int, Mapping[str, Any]] = {}
    records: list[SampleRecord] = []
    skipped = 0
    for doc_id, sample in sorted(by_document.items()):
        _check_document(task, sample)
        common[doc_id] = _common(task, sample)
        if sample.outcome == "budget_exceeded":
            records.append(unscored_record(common[doc_id], "budget_exceeded", sample.error))
            skipped += 1
        elif sample.outcome == "model_error" or not sample.responses:
            error = sample.error or "no response is stored"
            records.append(unscored_record(common[doc_id], "model_error", error))
        else:
            answers[doc_id] = [_restore(task, response) for response in sample.responses]
    scored: list[ScoredSample] = []
    for doc_id, outcome in score_samples(task, answers.items()):
        if isinstance(outcome, ScoringError):
            records.append(unscored_record(common[doc_id], outcome.outcome, outcome.message))
            continue
        scored.append(ScoredSample(doc_id, outcome))
        records.extend(scored_records(common[doc_id], outcome))
    records.sort(key=lambda record: record.doc_id)
    errored = len(by_document) - len(scored) - skipped
    seconds = time.monotonic() - began
    score = aggregate_task(task, scored, len(by_document), errored, seconds=seconds, skipped=skipped)
    return RescoredTask(score, tuple(records))


def _check_document(task: Task, sample: StoredSample) -> None:
    where = f"task {task.name}, document {sample.doc_id}"
    if not 0 <= sample.doc_id < task.total_documents:
        message = f"{where}: the task has only {task.total_documents} documents; use the data that were answered"
        raise EvaluationError("DOCUMENTS_DIFFER", message)
    if sample.doc_hash and sample.doc_hash != task.doc_hash(sample.doc_id):
        message = f"{where}: it is not the document that was answered; use the same version of the data"
        raise EvaluationError("DOCUMENTS_DIFFER", message)


def _restore(task: Task, response: Any) -> Any:
    """What a scorer gets of a stored response: likelihoods and conversations of rounds are stored as JSON text."""
    rounds = task.config.output_type == "generate_until_multi_round"
    if not isinstance(response, str) or not (task.scores_likelihoods or rounds):
        return response
    try:
        value = json.loads(response)
    except ValueError:
        return response
    return value if isinstance(value, list) else response


def _common(task: Task, sample: StoredSample) -> Mapping[str, Any]:
    return {
        "task": task.name,
        "doc_id": sample.doc_id,
        "prompt": sample.prompt,
        "target": sample.target,
        "responses": tuple(
            response if isinstance(response, str) else json.dumps(response) for response in sample.responses
        ),
        "input_tokens": sample.tokens[0],
        "output_tokens": sample.tokens[1],
        "doc_hash": task.doc_hash(sample.doc_id),
        "repeats": task.repeats,
    }
