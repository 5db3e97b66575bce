"""Tasks that are Python classes: they bring their own data, and may replace the functions of their YAML file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.tasks.config import TaskConfig
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError

_METHODS = ("doc_to_text", "doc_to_visual", "doc_to_target", "doc_to_choice", "doc_to_messages", "process_results")


@dataclass(frozen=True, slots=True)
class PythonTask:
    """An instance's data, and the configuration with its methods in place."""

    config: TaskConfig
    splits: Mapping[str, Any]


def adopt_methods(config: TaskConfig, python_class: Any) -> TaskConfig:
    """``config`` where each function that the class defines stands for one of the YAML file's.

    Raises TaskFileError when ``class`` names no class.
    """
    if not inspect.isclass(python_class):
        raise TaskFileError(f"task {config.task}: class must name a Python class, but is {python_class!r}")
    return replace(config, **{name: getattr(python_class, name) for name in _methods_of(python_class)})


def make_python_task(python_class: Callable[..., Any], values: Mapping[str, Any], config: TaskConfig) -> PythonTask:
    """An instance, made with the YAML file's mapping where its constructor takes one; making it gets the data.

    Raises EvaluationError DATASET_UNAVAILABLE when that fails, TASK_LOAD_FAILED when it leaves no data.
    """
    takes_config = "config" in inspect.signature(python_class).parameters
    try:
        instance = python_class(config=dict(values)) if takes_config else python_class()
    except EvaluationError:
        raise
    except Exception as error:
        message = f"task {config.task}: {python_class.__name__} failed: {type(error).__name__}: {error}"
        raise EvaluationError("DATASET_UNAVAILABLE", message) from error
    splits = getattr(instance, "dataset", None)
    if not isinstance(splits, Mapping):
        message = f"task {config.task}: {python_class.__name__} must set self.dataset to a mapping of splits"
        raise EvaluationError("TASK_LOAD_FAILED", message)
    methods = {name: getattr(instance, name) for name in _methods_of(python_class)}
    return PythonTask(replace(config, **methods), splits)


def _methods_of(python_class: Any) -> list[str]:
    return [name for name in _METHODS if callable(getattr(python_class, name, None))]
