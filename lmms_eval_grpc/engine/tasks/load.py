"""Building tasks: from the names in an :class:`EvaluationConfig` to :class:`Task` objects that are ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.data.documents import Documents, dataset_fingerprint
from lmms_eval_grpc.engine.data.source import DatasetSource, open_split
from lmms_eval_grpc.engine.scoring.filters import build_pipelines
from lmms_eval_grpc.engine.scoring.metrics import build_metrics
from lmms_eval_grpc.engine.scoring.reasoning import effective_tags
from lmms_eval_grpc.engine.tasks.config import TaskConfig, parse_task_config, resolve_for_model
from lmms_eval_grpc.engine.tasks.functions import Sources, resolve_functions
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from lmms_eval_grpc.engine.tasks.resolve import ResolvedTask, resolve_tasks
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError

T = TypeVar("T")


def load_tasks(config: EvaluationConfig, index: TaskIndex | None = None) -> tuple[Task, ...]:
    """The tasks that ``config.tasks`` asks for, in that order, groups, tags and patterns expanded, each once.

    Their data are opened and their first document is tried, so that a mistake in a task shows before any model is
    loaded. ``index`` saves a scan when the caller has one for the same include paths.

    Raises EvaluationError: UNKNOWN_TASK, TASK_LOAD_FAILED, UNSUPPORTED_TASK, DATASET_UNAVAILABLE, NO_DOCUMENTS or
    INVALID_LIMIT.
    """
    if not config.tasks:
        raise EvaluationError("UNKNOWN_TASK", "tasks is empty; name at least one task")
    resolved = resolve_tasks(config.tasks, index or TaskIndex.scan(config.include_paths))
    return tuple(_load_task(task, config) for task in resolved)


def _load_task(resolved: ResolvedTask, evaluation: EvaluationConfig) -> Task:
    sources = Sources()
    try:
        values = resolve_functions(resolved.values, sources)
        config = parse_task_config(values, resolved.source)
        config = resolve_for_model(config, evaluation.model, evaluation.gen_kwargs)
    except TaskFileError as error:
        raise EvaluationError("TASK_LOAD_FAILED", str(error)) from error
    config = replace(config, num_fewshot=_num_fewshot(config, evaluation))
    _refuse_unsupported(config)
    _require_functions(config, evaluation)
    split = _evaluated_split(config)
    source = DatasetSource(
        config.task, config.dataset_path, config.dataset_name, config.dataset_kwargs, evaluation.trust_remote_code
    )
    tags = _checked(config, lambda: effective_tags(config.reasoning_tags, evaluation.reasoning_tags))
    dataset = open_split(source, split)
    task = Task(
        config,
        Documents(config.task, dataset, config.process_docs),
        evaluation,
        split=split,
        metrics=_checked(
            config, lambda: build_metrics(config.metric_list, config.output_type, config.process_results is not None)
        ),
        pipelines=_checked(
            config, lambda: build_pipelines(config.filter_list, config.auto_strip_thinking and not tags)
        ),
        reasoning_tags=tags,
        source_digests=sources.digests,
        dataset_fingerprint=dataset_fingerprint(
            dataset, source.local_path, (config.dataset_kwargs or {}).get("data_files")
        ),
    )
    _try_documents(task)
    return task


def _checked(config: TaskConfig, build: Callable[[], T]) -> T:
    try:
        return build()
    except ValueError as error:
        raise EvaluationError("TASK_LOAD_FAILED", f"task {config.task}: {error}") from error


def _num_fewshot(config: TaskConfig, evaluation: EvaluationConfig) -> int:
    """The evaluation's number wins, except over a task that says 0 on purpose."""
    if config.num_fewshot == 0 or evaluation.num_fewshot is None:
        return config.num_fewshot or 0
    return evaluation.num_fewshot


def _refuse_unsupported(config: TaskConfig) -> None:
    if config.output_type != "generate_until":
        message = f"task {config.task}: output_type {config.output_type} is not supported yet; only generate_until is"
        raise EvaluationError("UNSUPPORTED_TASK", message)
    if config.num_fewshot:
        message = (
            f"task {config.task}: few-shot prompts are not supported yet; set num_fewshot {config.num_fewshot} to 0"
        )
        raise EvaluationError("UNSUPPORTED_TASK", message)


def _require_functions(config: TaskConfig, evaluation: EvaluationConfig) -> None:
    if config.doc_to_messages is None and config.doc_to_text is None:
        message = f"task {config.task}: needs doc_to_text or doc_to_messages, else there is nothing to ask"
        raise EvaluationError("TASK_LOAD_FAILED", message)
    if config.doc_to_target is None and config.process_results is None and not evaluation.predict_only:
        message = f"task {config.task}: needs doc_to_target or process_results, else there is nothing to compare with"
        raise EvaluationError("TASK_LOAD_FAILED", message)


def _evaluated_split(config: TaskConfig) -> str:
    split = config.test_split or config.validation_split
    if split is None:
        message = f"task {config.task}: needs a test_split or a validation_split to evaluate"
        raise EvaluationError("TASK_LOAD_FAILED", message)
    return split


def _try_documents(task: Task) -> None:
    """Builds the first document's request and target, and the last one's where that fails.

    A single bad document is the run's business; when both fail the task itself is wrong.
    """
    ids = task.doc_ids(task.evaluation.limit, task.evaluation.offset)
    for doc_id in (ids[0], ids[-1]):
        try:
            task.build_request(doc_id)
            if task.config.process_results is None:
                task.target(doc_id)
        except DocumentError as error:
            failure = error
        else:
            return
    raise EvaluationError("TASK_LOAD_FAILED", failure.message) from failure
