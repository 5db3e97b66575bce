"""A task's configuration: the fields of its YAML file, their defaults, and what depends on the model's name."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from lmms_eval_grpc.engine.tasks.functions import describe_callable
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError

OUTPUT_TYPES = (
    "generate_until",
    "generate_until_multi_round",
    "generate_until_agentic",
    "generate_visual_cot",
    "multiple_choice",
    "loglikelihood",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """Every key that a task's YAML file may have; functions are resolved. Made by :func:`parse_task_config`."""

    task: str
    task_alias: str | None = None
    """A name for display."""
    tag: str | list[str] | None = None
    group: str | list[str] | None = None
    """The older name of ``tag`` in a task's own file."""
    group_alias: str | None = None

    dataset_path: str | None = None
    """A hub id, a builder such as ``parquet``, or a folder."""
    dataset_name: str | None = None
    dataset_kwargs: dict[str, Any] | None = None
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    full_docs: bool = False
    """Accepted and without effect, as in lmms-eval."""
    process_results_use_image: bool = False
    """Documents given to ``process_results`` keep their media."""
    process_docs: Callable[[Any], Any] | None = None

    doc_to_visual: Any = None
    doc_to_text: Any = None
    doc_to_target: Any = None
    doc_to_choice: Any = None
    doc_to_messages: Any = None
    process_results: Callable[..., Any] | None = None
    use_prompt: str | None = None
    """Accepted and without effect, as in lmms-eval."""
    description: str = ""
    """A Jinja template over the document; reaches the model in the system message."""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    fewshot_config: dict[str, Any] | None = None
    num_fewshot: int | None = None

    metric_list: list[dict[str, Any]] | None = None
    output_type: str = "generate_until"
    generation_kwargs: dict[str, Any] | None = None
    repeats: int = 1
    filter_list: list[dict[str, Any]] | None = None
    should_decontaminate: bool = False
    """Accepted and without effect, as in lmms-eval; ``doc_to_decontamination_query`` too."""
    doc_to_decontamination_query: str | None = None
    cluster_key: str | None = None
    """Key of a cluster's id inside scores that are mappings."""
    score_key: str = "score"
    """Key of the number inside scores that are mappings."""
    metadata: Any = None
    """A mapping (``version``, ``num_fewshot``, …); anything else is legal and ignored."""
    lmms_eval_specific_kwargs: dict[str, Any] | None = None
    model_specific_generation_kwargs: dict[str, Any] | None = None
    model_specific_target_kwargs: Any = None
    reasoning_tags: Any = None
    auto_strip_thinking: bool = False

    @property
    def version(self) -> str:
        """``metadata.version`` as text; ``Yaml`` where none is given."""
        version = self.metadata.get("version") if isinstance(self.metadata, Mapping) else None
        return "Yaml" if version is None else str(version)

    def dump(self) -> dict[str, Any]:
        """The fields that are set, functions as ``!function module.name``: plain values, equal in every process."""
        return {
            item.name: _dump(getattr(self, item.name)) for item in fields(self) if getattr(self, item.name) is not None
        }


_FIELDS = {item.name: item for item in fields(TaskConfig)}
_TEXT = frozenset({"dataset_path", "dataset_name", "training_split", "validation_split", "test_split", "fewshot_split"})
_MAPPINGS = frozenset(
    {
        "dataset_kwargs",
        "generation_kwargs",
        "lmms_eval_specific_kwargs",
        "model_specific_generation_kwargs",
        "fewshot_config",
    }
)
_FUNCTIONS = frozenset({"process_docs", "process_results"})


def default_values() -> dict[str, Any]:
    """The value of every field that a task file leaves out."""
    return {name: None if item.default is MISSING else item.default for name, item in _FIELDS.items()}


def parse_task_config(values: Mapping[str, Any], source: str) -> TaskConfig:
    """The configuration in ``values``, a task file's mapping whose functions are resolved.

    ``source`` names the file in errors. Raises TaskFileError for an unknown key, a value of a wrong type, or an
    ``output_type`` that does not exist.
    """
    unknown = [key for key in values if key not in _FIELDS]
    if unknown:
        raise TaskFileError(f"{source}: {'; '.join(_unknown_key(key) for key in unknown)}")
    known = {key: value for key, value in values.items() if value is not None or key in ("task",)}
    _check_types(known, source)
    if known.get("group") is not None:
        if known.get("tag") is not None:
            raise TaskFileError(
                f"{source}: has both tag and group; in a task's own file they mean the same, so keep tag only"
            )
        known["tag"] = known["group"]
    config = TaskConfig(**known)
    if config.output_type not in OUTPUT_TYPES:
        raise TaskFileError(f"{source}: output_type {config.output_type!r} is none of {', '.join(OUTPUT_TYPES)}")
    return replace(config, generation_kwargs=_generation_defaults(config))


def resolve_for_model(config: TaskConfig, model: str, gen_kwargs: Mapping[str, Any]) -> TaskConfig:
    """``config`` as it applies to one model: its own keyword arguments picked, its generation arguments merged.

    ``model`` is the backend's name as the user typed it. Generation arguments come from the task, then from
    ``model_specific_generation_kwargs``, then from ``gen_kwargs``; the later wins. ``until`` becomes a list of str.

    Raises TaskFileError when ``until`` is of a wrong type.
    """
    generation = dict(copy.deepcopy(config.generation_kwargs or {}))
    generation.update(_pick(config.model_specific_generation_kwargs, model, {}))
    if "generate" in config.output_type:
        generation.update(gen_kwargs)
    if "until" in generation:
        generation["until"] = _until(generation["until"], config.task)
    return replace(
        config,
        generation_kwargs=generation or None,
        lmms_eval_specific_kwargs=_specific_kwargs(config.lmms_eval_specific_kwargs, model),
        model_specific_target_kwargs=_pick(config.model_specific_target_kwargs, model, None),
    )


def _specific_kwargs(kwargs: Mapping[str, Any] | None, model: str) -> dict[str, Any] | None:
    """What the task's functions get: exactly the model's own mapping, or everything with the default's keys on top.

    In the second case the other models' mappings stay visible beside them; tasks read them there.
    """
    if kwargs is None:
        return None
    if model in kwargs:
        return kwargs[model]  # type: ignore[no-any-return]  # a task may give a model anything, also none
    for fallback in ("default", "dataset"):
        if isinstance(kwargs.get(fallback), Mapping):
            return {**kwargs, **kwargs[fallback]}
    return dict(kwargs)


def _pick(by_model: Any, model: str, otherwise: Any) -> Any:
    if not isinstance(by_model, Mapping):
        return otherwise
    return by_model.get(model, by_model.get("default", otherwise))


def _generation_defaults(config: TaskConfig) -> dict[str, Any] | None:
    given = config.generation_kwargs
    if given is None:
        if "generate_until" not in config.output_type:
            return None
        return {"until": [config.fewshot_delimiter], "do_sample": False}
    defaults = dict(given)
    if "temperature" in defaults:
        try:
            defaults["temperature"] = float(defaults["temperature"])
        except (TypeError, ValueError):
            value = defaults["temperature"]
            raise TaskFileError(
                f"task {config.task}: generation_kwargs.temperature must be a number, but is {value!r}"
            ) from None
    defaults.setdefault("until", [config.fewshot_delimiter])
    return defaults


def _until(value: Any, task: str) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    if listed is None:
        return []
    if not isinstance(listed, list | tuple) or not all(isinstance(stop, str) for stop in listed):
        raise TaskFileError(
            f"task {task}: generation_kwargs.until must be a string or a list of strings, but is {value!r}"
        )
    return [stop for stop in listed if stop]


def _check_types(values: Mapping[str, Any], source: str) -> None:
    if not isinstance(values.get("task"), str):
        raise TaskFileError(f"{source}: task must be a name, but is {values.get('task')!r}")
    for key, value in values.items():
        if key in _TEXT and not isinstance(value, str):
            raise TaskFileError(f"{source}: {key} must be text, but is {value!r}")
        if key in _MAPPINGS and not isinstance(value, Mapping):
            raise TaskFileError(f"{source}: {key} must be a mapping, but is {value!r}")
        if key in _FUNCTIONS and not callable(value):
            raise TaskFileError(f"{source}: {key} must be a function (!function utils.name), but is {value!r}")
        if key in ("metric_list", "filter_list"):
            _check_list_of_mappings(key, value, source)
        if key in ("repeats", "num_fewshot") and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise TaskFileError(f"{source}: {key} must be a whole number, not negative, but is {value!r}")
        if key == "repeats" and value < 1:
            raise TaskFileError(f"{source}: repeats must be at least 1, but is {value}")


def _check_list_of_mappings(key: str, value: Any, source: str) -> None:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise TaskFileError(f"{source}: {key} must be a list of mappings, but is {value!r}")


def _unknown_key(key: Any) -> str:
    close = difflib.get_close_matches(str(key), _FIELDS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown key {key!r}{hint}"


def _dump(value: Any) -> Any:
    if callable(value):
        return describe_callable(value)
    if isinstance(value, Mapping):
        return {str(key): _dump(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_dump(item) for item in value]
    return value
