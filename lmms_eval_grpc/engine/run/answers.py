"""Asking a backend in the way that a task's output type wants, and what of its responses is scored."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.entry import ModelEntry
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Backend,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
)
from lmms_eval_grpc.engine.run.episodes import run_episodes
from lmms_eval_grpc.engine.run.log import AnswerKey
from lmms_eval_grpc.engine.run.requests import OpenRequests
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task

_EPISODES = ("generate_until_multi_round", "generate_until_agentic")


def require_capabilities(tasks: Sequence[Task], backend: Backend) -> None:
    """Raises EvaluationError UNSUPPORTED_TASK for the first task that asks for what ``backend`` cannot do."""
    able = backend.capabilities
    for task in tasks:
        kind = task.config.output_type
        if task.scores_likelihoods and not able.loglikelihood:
            message = f"task {task.name}: output_type {kind} needs likelihoods, which this model backend does not give"
            raise EvaluationError("UNSUPPORTED_TASK", f"{message}; choose another backend")
        if kind == "generate_visual_cot" and not able.visual_cot:
            message = f"task {task.name}: output_type {kind} needs a model that draws while it thinks"
            raise EvaluationError("UNSUPPORTED_TASK", f"{message}; this model backend does not")


def require_generation_arguments(tasks: Sequence[Task], entry: ModelEntry) -> None:
    """Raises EvaluationError INVALID_GENERATION_ARGS for generation arguments of tasks that the model does not take.

    Before the model is loaded, with all of them; the evaluation's own ``gen_kwargs`` are among the tasks'.
    """
    problems = [
        f"task {task.name}: {problem.description}"
        for task in tasks
        if not task.scores_likelihoods
        for problem in entry.check_generation(task.config.generation_kwargs or {})
    ]
    if problems:
        raise EvaluationError("INVALID_GENERATION_ARGS", "\n".join(problems))


def expected_parts(task: Task, doc_id: int) -> range:
    """The numbers of the document's requests; for a broken document one, whose building will say what is wrong."""
    try:
        return task.parts(doc_id) or range(1)
    except DocumentError:
        return range(1)


def ask(
    backend: Backend, task: Task, keys: Sequence[AnswerKey], lock: threading.Lock, prompts: dict[int, str]
) -> Generator[list[Answer], None, None]:
    """Answers to ``keys``, batch by batch, each by its position in ``keys``; log-probabilities have the right sign.

    The text of each document's prompt is put into ``prompts`` before its answer is yielded. Closing the iterator stops
    the backend.
    """
    if task.config.output_type in _EPISODES:
        yield from run_episodes(task, [key.doc_id for key in keys], backend, lock, prompts)
        return
    if task.scores_likelihoods:
        questions: OpenRequests[LoglikelihoodRequest] = OpenRequests(task, keys, lock, prompts)
        batches = backend.loglikelihood(questions)
    else:
        requests: OpenRequests[GenerationRequest] = OpenRequests(task, keys, lock, prompts)
        batches = backend.generate(requests)
    negate = task.scores_likelihoods and backend.capabilities.loglikelihood_is_loss
    try:
        for batch in batches:
            yield _from_losses(batch) if negate else batch
    finally:
        # Ends the backend's preparation at once, also when this is left half-way.
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def scored_value(response: GenerationResponse) -> Any:
    """What a scorer gets of one response: text, the texts of all rounds, or a (log-probability, is greedy) pair."""
    if response.log_probability is not None:
        return (response.log_probability, bool(response.is_greedy))
    return response.text if response.rounds is None else list(response.rounds)


def shown_text(response: GenerationResponse) -> str:
    """The response as text for a record; JSON where it is not a text by itself."""
    value = scored_value(response)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _from_losses(batch: list[Answer]) -> list[Answer]:
    return [
        answer
        if answer.response.log_probability is None
        else replace(answer, response=replace(answer.response, log_probability=-answer.response.log_probability))
        for answer in batch
    ]
