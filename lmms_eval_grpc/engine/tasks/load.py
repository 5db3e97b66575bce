"""Building tasks: from the names in an :class:`EvaluationConfig` to :class:`Task` objects that are ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.data.documents import Documents, dataset_fingerprint
from lmms_eval_grpc.engine.data.source import DatasetSource, pick_split
from lmms_eval_grpc.engine.scoring.filters import Pipeline, build_pipelines
from lmms_eval_grpc.engine.scoring.metrics import Metric, build_metrics
from lmms_eval_grpc.engine.scoring.reasoning import TagPairs, effective_tags
from lmms_eval_grpc.engine.seeds import seed_for_task
from lmms_eval_grpc.engine.tasks.config import TaskConfig, parse_task_config, resolve_for_model
from lmms_eval_grpc.engine.tasks.fewshot import FewShot, check_fewshot, draw_stream
from lmms_eval_grpc.engine.tasks.functions import Sources, resolve_functions
from lmms_eval_grpc.engine.tasks.group import Group, build_group
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from lmms_eval_grpc.engine.tasks.python_tasks import PythonTask, adopt_methods, make_python_task
from lmms_eval_grpc.engine.tasks.resolve import ResolvedTask, resolve
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """What an evaluation is about."""

    tasks: tuple[Task, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task that is complete but for its data."""

    config: TaskConfig
    metrics: tuple[Metric, ...]
    pipelines: tuple[Pipeline, ...]
    reasoning_tags: TagPairs
    split: str
    """Name of the split to evaluate."""
    sources: Sources
    python_class: Callable[..., Any] | None = None
    """The class of a task that is written in Python, which brings its data."""
    values: Mapping[str, Any] | None = None
    """The task file's mapping, for that class."""


def load_tasks(config: EvaluationConfig, index: TaskIndex | None = None) -> tuple[Task, ...]:
    """The tasks of :func:`load`."""
    return load(config, index).tasks


def load(config: EvaluationConfig, index: TaskIndex | None = None) -> LoadedTasks:
    """The tasks that ``config.tasks`` asks for, in that order, groups, tags and patterns expanded, each once.

    Their data are opened and their first document is tried, so that a mistake in a task shows before any model is
    loaded. ``index`` saves a scan when the caller has one for the same include paths.

    Raises EvaluationError: UNKNOWN_TASK, TASK_LOAD_FAILED, UNSUPPORTED_TASK, DATASET_UNAVAILABLE, NO_DOCUMENTS or
    INVALID_LIMIT.
    """
    if not config.tasks:
        raise EvaluationError("UNKNOWN_TASK", "tasks is empty; name at least one task")
    index = index or TaskIndex.open(config.include_paths, override=config.override_tasks)
    resolution = resolve(config.tasks, index)
    try:
        groups = tuple(build_group(group) for group in resolution.groups)
    except TaskFileError as error:
        raise EvaluationError("TASK_LOAD_FAILED", str(error)) from error
    return LoadedTasks(tuple(_load_task(task, config) for task in resolution.tasks), groups)


def _load_task(resolved: ResolvedTask, evaluation: EvaluationConfig) -> Task:
    seed_for_task(evaluation)  # each task anew: its documents must not depend on which tasks come before it
    return _open_task(plan_task(resolved, evaluation), evaluation)


def plan_task(resolved: ResolvedTask, evaluation: EvaluationConfig) -> TaskPlan:
    """Everything about a task that can be had without its data. Raises EvaluationError TASK_LOAD_FAILED."""
    sources = Sources()
    python_class = None
    try:
        values = resolve_functions(resolved.values, sources)
        python_class = values.pop("class", None)
        config = parse_task_config(values, resolved.source)
        config = resolve_for_model(config, evaluation.model_name, evaluation.gen_kwargs)
        if python_class is not None:
            config = adopt_methods(config, python_class)
    except TaskFileError as error:
        raise EvaluationError("TASK_LOAD_FAILED", str(error)) from error
    config = replace(config, num_fewshot=_num_fewshot(config, evaluation))
    _require_functions(config, evaluation)
    tags = _checked(config, lambda: effective_tags(config.reasoning_tags, evaluation.reasoning_tags))
    _checked(config, lambda: check_fewshot(config.fewshot_config))
    return TaskPlan(
        config=config,
        metrics=_checked(
            config, lambda: build_metrics(config.metric_list, config.output_type, config.process_results is not None)
        ),
        pipelines=_checked(
            config, lambda: build_pipelines(config.filter_list, config.auto_strip_thinking and not tags)
        ),
        reasoning_tags=tags,
        split=_evaluated_split(config),
        sources=sources,
        python_class=python_class,
        values=values,
    )


def _open_task(plan: TaskPlan, evaluation: EvaluationConfig) -> Task:
    config, opened = plan.config, _open_data(plan, evaluation)
    dataset = opened.split(plan.split)
    documents = Documents(config.task, dataset, opened.process_docs)
    task = Task(
        opened.config,
        documents,
        evaluation,
        split=plan.split,
        metrics=plan.metrics,
        pipelines=plan.pipelines,
        reasoning_tags=plan.reasoning_tags,
        source_digests=plan.sources.digests,
        dataset_fingerprint=opened.fingerprint(dataset),
        fewshot=_fewshot(plan, opened, documents, evaluation) if config.num_fewshot else None,
    )
    _try_documents(task)
    return task


@dataclass(frozen=True, slots=True)
class _Opened:
    """A task's data."""

    config: TaskConfig
    splits: Mapping[str, Any]
    source: DatasetSource
    process_docs: Callable[[Any], Any] | None
    """None where it was applied already."""

    def split(self, name: str) -> Any:
        return pick_split(self.source, self.splits, name)

    def fingerprint(self, dataset: Any) -> str:
        return dataset_fingerprint(
            dataset, self.source.local_path, (self.config.dataset_kwargs or {}).get("data_files")
        )


def _open_data(plan: TaskPlan, evaluation: EvaluationConfig) -> _Opened:
    config = plan.config
    source = DatasetSource(
        config.task, config.dataset_path, config.dataset_name, config.dataset_kwargs, evaluation.trust_remote_code
    )
    if plan.python_class is None:
        return _Opened(config, source.open(), source, config.process_docs)
    made: PythonTask = make_python_task(plan.python_class, plan.values or {}, config)
    return _Opened(made.config, made.splits, source, None)


def _fewshot(plan: TaskPlan, opened: _Opened, documents: Documents, evaluation: EvaluationConfig) -> FewShot:
    config = plan.config
    name = config.fewshot_split or config.training_split or config.validation_split or config.test_split or plan.split
    same = name == plan.split
    dataset = opened.split(name)
    examples = documents if same else Documents(config.task, dataset, opened.process_docs)
    count = config.num_fewshot or 0
    if count + (1 if same else 0) > len(examples):
        message = (
            f"task {config.task}: num_fewshot {count} needs more documents than the {len(examples)} of split {name!r}; "
            "lower it, or name another fewshot_split"
        )
        raise EvaluationError("TASK_LOAD_FAILED", message)
    fewshot = FewShot(
        examples, count, same, opened.fingerprint(dataset), check_fewshot(config.fewshot_config), evaluation.seed[3]
    )
    if "fewshot_stream" not in evaluation.compat:
        return fewshot
    return replace(fewshot, stream=draw_stream(fewshot, range(evaluation.offset, len(documents))))


def _checked(config: TaskConfig, build: Callable[[], T]) -> T:
    try:
        return build()
    except ValueError as error:
        raise EvaluationError("TASK_LOAD_FAILED", f"task {config.task}: {error}") from error
    except Exception as error:  # a filter of the task's own, whose constructor may raise anything
        message = f"task {config.task}: {type(error).__name__}: {error}"
        raise EvaluationError("TASK_LOAD_FAILED", message) from error


def _num_fewshot(config: TaskConfig, evaluation: EvaluationConfig) -> int:
    """The evaluation's number wins, except over a task that says 0 on purpose."""
    if config.num_fewshot == 0 or evaluation.num_fewshot is None:
        return config.num_fewshot or 0
    return evaluation.num_fewshot


def _require_functions(config: TaskConfig, evaluation: EvaluationConfig) -> None:
    def refuse(message: str) -> EvaluationError:
        return EvaluationError("TASK_LOAD_FAILED", f"task {config.task}: {message}")

    if config.doc_to_messages is None and config.doc_to_text is None:
        raise refuse("needs doc_to_text or doc_to_messages, else there is nothing to ask")
    if config.doc_to_target is None and config.process_results is None and not evaluation.predict_only:
        raise refuse("needs doc_to_target or process_results, else there is nothing to compare with")
    if config.output_type == "multiple_choice" and config.doc_to_choice is None:
        raise refuse("output_type multiple_choice needs doc_to_choice, the texts to choose from")
    if config.output_type == "loglikelihood" and config.doc_to_target is None:
        raise refuse("output_type loglikelihood needs doc_to_target, the text whose likelihood is asked for")
    if config.output_type == "generate_until_agentic" and not callable(config.doc_to_text):
        raise refuse("output_type generate_until_agentic needs a function as doc_to_text, which makes each step")
    if config.output_type == "generate_until_multi_round" and not (
        callable(config.doc_to_messages) or callable(config.doc_to_text)
    ):
        raise refuse("output_type generate_until_multi_round needs a function that makes each round")


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
    ids: Sequence[int] = task.doc_ids(task.evaluation.limit, task.evaluation.offset)
    for doc_id in (ids[0], ids[-1]):
        try:
            task.parts(doc_id)
            task.build_request(doc_id)
            if task.config.process_results is None:
                task.target(doc_id)
        except DocumentError as error:
            failure = error
        else:
            return
    raise EvaluationError("TASK_LOAD_FAILED", failure.message) from failure
