"""Scoring one sample: filters, reasoning tags, then the task's scorer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmms_eval_grpc.engine.judge.failures import JudgeError, collect_failures
from lmms_eval_grpc.engine.scoring import likelihood
from lmms_eval_grpc.engine.scoring.filters import Pipeline
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
    """A sample could not be scored: a filter or scorer of its task raised, or a judge it asked gave no judgement.

    It counts as an error, never as wrong. ``outcome`` is which of the two it was.
    """

    def __init__(
        self,
        task: str,
        doc_id: int,
        message: str,
        outcome: Literal["scoring_error", "judge_error"] = "scoring_error",
    ) -> None:
        super().__init__(message)
        self.task = task
        self.doc_id = doc_id
        self.message = message
        self.outcome = outcome


def score_sample(task: Task, doc_id: int, responses: Sequence[Any]) -> tuple[FilteredScore, ...]:
    """The scores of document ``doc_id``, one per filter pipeline of the task, in their order.

    ``responses`` are the model's, untouched: texts, one per repeat. For the output types ``multiple_choice`` and
    ``loglikelihood`` they are (log-probability, is greedy) pairs, one per choice (followed by those without the
    question, where ``acc_mutual_info`` is asked for), or a single one; no filter changes those.

    Nothing is retried: the same call would fail again, and judges retry by themselves. A judge's failure counts even
    where the task's code caught the error and made up a score. Raises ScoringError.
    """
    scored = []
    for pipeline in task.pipelines:
        where = f"task {task.name}, document {doc_id}, filter {pipeline.name}"
        with collect_failures() as failures:
            failure: Exception | None = None
            try:
                score = _score(task, doc_id, responses, pipeline)
            except Exception as error:
                failure = error
        judge_failure = failures.first()
        if judge_failure is not None:
            message = f"{where}: the judge failed: {judge_failure}"
            raise ScoringError(task.name, doc_id, message, "judge_error") from (failure or judge_failure)
        if failure is not None:
            message = f"{where}: scoring failed: {type(failure).__name__}: {failure}"
            outcome: Literal["scoring_error", "judge_error"] = (
                "judge_error" if isinstance(failure, JudgeError) else "scoring_error"
            )
            raise ScoringError(task.name, doc_id, message, outcome) from failure
        scored.append(score)
    return tuple(scored)


def _score(task: Task, doc_id: int, responses: Sequence[Any], pipeline: Pipeline) -> FilteredScore:
    if task.config.output_type in likelihood.METRICS:
        return _score_likelihoods(task, doc_id, responses, pipeline.name)
    plain = task.scoring_document(doc_id)
    document = task.documents.with_media(doc_id) if pipeline.needs_media else plain
    filtered = _without_reasoning(pipeline.apply(responses, document), task)
    results = _results(task, filtered)
    text = tuple("" if value is None else str(value) for value in results)
    if task.evaluation.predict_only:
        return FilteredScore(pipeline.name, text, {})
    repeats: tuple[dict[str, Any], ...] = ()
    if len(responses) > 1:
        alone = (pipeline.apply_to_one(response, document) for response in responses)
        # Each repeat is scored with a document of its own: a scorer may change it.
        repeats = tuple(
            _process(task, doc_id, _results(task, _without_reasoning(value, task)), task.scoring_document(doc_id))
            for value in alone
        )
    return FilteredScore(pipeline.name, text, _process(task, doc_id, results, plain), repeats)


def _score_likelihoods(task: Task, doc_id: int, responses: Sequence[Any], name: str) -> FilteredScore:
    likelihoods = likelihood.as_likelihoods(responses)
    text = tuple(json.dumps([value, is_greedy]) for value, is_greedy in likelihoods)
    if task.evaluation.predict_only:
        return FilteredScore(name, text, {})
    config, columns = task.config, task.documents.columns
    document = task.scoring_document(doc_id)
    metrics = {metric.name for metric in task.metrics}
    if config.process_results is not None:
        # Tasks' own scorers look for the smallest: the models that they were written for return losses.
        losses = [(-value, is_greedy) for value, is_greedy in likelihoods]
        single = config.output_type == "loglikelihood"
        return FilteredScore(name, text, _call_process_results(task, document, losses[0] if single else losses))
    if config.output_type == "loglikelihood":
        if len(likelihoods) != 1:
            raise ValueError(f"a loglikelihood task has one likelihood per document, but there are {len(likelihoods)}")
        return FilteredScore(
            name, text, likelihood.score_loglikelihood(metrics, likelihoods[0], str(task.target(doc_id)))
        )
    choices = document_values.doc_to_choice(config, columns, document)
    question = None if config.doc_to_text is None else document_values.doc_to_text(config, columns, document)
    # A question that is a number is the right choice's: then the choices are contexts, and the target continues them.
    several_inputs = isinstance(question, int) and not isinstance(question, bool)
    gold = question if several_inputs else task.target(doc_id)
    unconditional = likelihoods[len(choices) :] if len(likelihoods) == 2 * len(choices) else None
    conditional = likelihoods[: len(choices)] if unconditional else likelihoods
    scores = likelihood.score_multiple_choice(metrics, choices, conditional, gold, unconditional=unconditional)
    return FilteredScore(name, text, scores)


def _process(task: Task, doc_id: int, results: list[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    if task.config.process_results is not None:
        return _call_process_results(task, document, results)
    target = task.target(doc_id)
    if task.config.doc_to_choice is not None:
        target = document_values.doc_to_choice(task.config, task.documents.columns, document)[target]
    references = list(target) if isinstance(target, list | tuple) else [target]
    # Of several targets any acceptable answer will do.
    several = task.has_several_targets
    return {
        metric.name: metric.score_any(references, results) if several else metric.score(references, results)
        for metric in task.metrics
        if metric.scorer is not None
    }


def _call_process_results(task: Task, document: Mapping[str, Any], results: Any) -> dict[str, Any]:
    function = task.config.process_results
    scores = None if function is None else function(document, results)
    if not isinstance(scores, Mapping):
        raise TypeError(f"process_results must return a mapping of metrics to scores, but returned {scores!r:.200}")
    return dict(scores)


def _without_reasoning(value: Any, task: Task) -> Any:
    if not task.reasoning_tags:
        return value
    if isinstance(value, list):
        return [_without_reasoning(item, task) for item in value]
    return strip_reasoning(value, task.reasoning_tags) if isinstance(value, str) else value


def _results(task: Task, filtered: Any) -> list[Any]:
    """What the scorer gets. Of a conversation of rounds one item, whatever it is, and nothing is changed in it."""
    if task.config.output_type in ("generate_until_multi_round", "generate_until_agentic"):
        return [filtered]
    return _stripped(filtered)


def _stripped(filtered: Any) -> list[Any]:
    """The list that scorers get: white space at the ends removed, None made empty text."""
    values = filtered if isinstance(filtered, list) else [filtered]
    return ["" if value is None else value.strip() if isinstance(value, str) else value for value in values]
