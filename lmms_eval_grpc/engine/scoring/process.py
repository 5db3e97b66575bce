"""Scoring one sample: filters, reasoning tags, then the task's scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.scoring.filters import Pipeline
from lmms_eval_grpc.engine.scoring.metrics import Metric, Scorer
from lmms_eval_grpc.engine.scoring.reasoning import strip_reasoning
from lmms_eval_grpc.engine.tasks import document_values
from lmms_eval_grpc.engine.tasks.task import Task


@dataclass(frozen=True, slots=True)
class FilteredScore:
    """What one filter pipeline made of a sample's responses, and how the task scored it."""

    filter: str
    filtered_responses: tuple[str, ...]
    """After filters and the removal of reasoning tags, as text: what was scored."""
    scores: dict[str, Any]
    """By metric, whatever the scorer returned; empty when only predictions are wanted."""
    repeat_scores: tuple[dict[str, Any], ...] = ()
    """With several responses: the scores of each alone, in their order."""


class ScoringError(Exception):
    """A sample could not be scored: a filter or scorer of its task raised. It counts as an error, never as wrong."""

    def __init__(self, task: str, doc_id: int, message: str) -> None:
        super().__init__(message)
        self.task = task
        self.doc_id = doc_id
        self.message = message


def score_sample(task: Task, doc_id: int, responses: Sequence[str]) -> tuple[FilteredScore, ...]:
    """The scores of document ``doc_id``, one per filter pipeline of the task, in their order.

    ``responses`` are the model's, untouched, one per repeat. Nothing is retried: the same call would fail again.
    Raises ScoringError.
    """
    scored = []
    for pipeline in task.pipelines:
        try:
            scored.append(_score(task, doc_id, responses, pipeline))
        except Exception as error:
            where = f"task {task.name}, document {doc_id}, filter {pipeline.name}"
            message = f"{where}: scoring failed: {type(error).__name__}: {error}"
            raise ScoringError(task.name, doc_id, message) from error
    return tuple(scored)


def _score(task: Task, doc_id: int, responses: Sequence[str], pipeline: Pipeline) -> FilteredScore:
    document = task.documents.with_media(doc_id) if pipeline.needs_media else task.scoring_document(doc_id)
    filtered = _without_reasoning(pipeline.apply(responses, document), task)
    results = _stripped(filtered)
    text = tuple("" if value is None else str(value) for value in results)
    if task.evaluation.predict_only:
        return FilteredScore(pipeline.name, text, {})
    repeats: tuple[dict[str, Any], ...] = ()
    if len(responses) > 1:
        alone = (pipeline.apply_to_one(response, document) for response in responses)
        repeats = tuple(_process(task, doc_id, _stripped(_without_reasoning(value, task))) for value in alone)
    return FilteredScore(pipeline.name, text, _process(task, doc_id, results), repeats)


def _process(task: Task, doc_id: int, results: list[Any]) -> dict[str, Any]:
    document = task.scoring_document(doc_id)
    if task.config.process_results is not None:
        scores = task.config.process_results(document, results)
        if not isinstance(scores, Mapping):
            raise TypeError(f"process_results must return a mapping of metrics to scores, but returned {scores!r:.200}")
        return dict(scores)
    target = task.target(doc_id)
    if task.config.doc_to_choice is not None:
        target = document_values.doc_to_choice(task.config, task.documents.columns, document)[target]
    references = list(target) if isinstance(target, list | tuple) else [target]
    return {
        metric.name: _metric_score(task, metric, metric.scorer, references, results)
        for metric in task.metrics
        if metric.scorer is not None
    }


def _metric_score(task: Task, metric: Metric, scorer: Scorer, references: list[Any], results: list[Any]) -> Any:
    def score(wanted: list[Any]) -> Any:
        value = scorer(references=wanted, predictions=results, **metric.kwargs)
        return value[metric.name] if isinstance(value, Mapping) else value

    if task.has_several_targets and metric.name != "anls":
        # Any acceptable answer will do; anls looks for the best one by itself.
        return 1.0 if any(score([reference]) for reference in references) else 0.0
    return score(references)


def _without_reasoning(value: Any, task: Task) -> Any:
    if not task.reasoning_tags:
        return value
    if isinstance(value, list):
        return [_without_reasoning(item, task) for item in value]
    return strip_reasoning(value, task.reasoning_tags) if isinstance(value, str) else value


def _stripped(filtered: Any) -> list[Any]:
    """The list that scorers get: white space at the ends removed, None made empty text."""
    values = filtered if isinstance(filtered, list) else [filtered]
    return ["" if value is None else value.strip() if isinstance(value, str) else value for value in values]
