"""From the names in a request to task configurations: groups, tags and patterns expanded, overrides applied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.tasks.index import TaskEntry, TaskIndex, is_task_file
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError, YamlReader

_GROUP_KEYS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata"})
"""Keys of a group file that are the group's own; every other key overrides that key of all its tasks."""


@dataclass(frozen=True, slots=True)
class ResolvedTask:
    """One task to load."""

    name: str
    values: Mapping[str, Any]
    """Its configuration, overrides applied; functions are not loaded yet."""
    source: str
    """The YAML file, for messages."""
    group: str
    """The group through which it was reached; empty when it was asked for by name."""


def resolve_tasks(names: Sequence[str], index: TaskIndex) -> tuple[ResolvedTask, ...]:
    """The tasks that ``names`` stand for, in the order of the request, each once.

    A name is a task, a group, a tag, a pattern, or the path of a YAML file. A task that one group lists twice with
    different settings is kept twice, the second as ``name-1``.

    Raises EvaluationError: UNKNOWN_TASK, UNSUPPORTED_TASK, or TASK_LOAD_FAILED, the last also when two groups want
    different settings for one task.
    """
    resolver = _Resolver(index)
    try:
        return _unique(task for name in names for task in resolver.request(name))
    except TaskFileError as error:
        raise EvaluationError("TASK_LOAD_FAILED", str(error)) from error


class _Resolver:
    def __init__(self, index: TaskIndex) -> None:
        self._index = index
        self._reader = YamlReader()

    def request(self, name: str) -> Iterator[ResolvedTask]:
        if is_task_file(name):
            yield from self._file(Path(name).expanduser())
            return
        matches = self._index.matches(name)
        if not matches:
            raise unknown_task(name, self._index)
        for match in matches:
            yield from self._named(match, {}, "", ())

    def _file(self, path: Path) -> Iterator[ResolvedTask]:
        values = self._reader.read(path)
        if "class" in values:
            raise _unsupported(f"{path}: a task in a Python class is not supported yet")
        if isinstance(values.get("task"), list):
            yield from self._group(values, {}, str(path), ())
        elif isinstance(values.get("task"), str):
            yield ResolvedTask(values["task"], values, str(path), "")
        else:
            raise TaskFileError(f"{path}: is not a task; it has no key called task")

    def _named(
        self, name: str, overrides: Mapping[str, Any], group: str, above: tuple[str, ...]
    ) -> Iterator[ResolvedTask]:
        entry = self._index.get(name)
        if entry is None:
            raise EvaluationError("TASK_LOAD_FAILED", f"group {group}: its member {name!r} is no task, group or tag")
        if name in above:
            raise EvaluationError("TASK_LOAD_FAILED", f"group {name} contains itself: {' -> '.join((*above, name))}")
        if entry.kind == "python_task":
            raise _unsupported(f"task {name}: a task in a Python class ({entry.source}) is not supported yet")
        if entry.kind == "tag":
            for member in entry.members:
                yield from self._named(member, overrides, group, (*above, name))
        elif entry.kind == "group":
            yield from self._group({**self._index.group_config(name), **overrides}, {}, str(entry.source), above)
        else:
            yield self._task(entry, overrides, group)

    def _task(self, entry: TaskEntry, overrides: Mapping[str, Any], group: str) -> ResolvedTask:
        source = str(entry.source)
        values = {**self._reader.read(Path(source)), **overrides, "task": entry.name}
        return ResolvedTask(entry.name, values, source, group)

    def _group(
        self, config: Mapping[str, Any], overrides: Mapping[str, Any], source: str, above: tuple[str, ...]
    ) -> Iterator[ResolvedTask]:
        name = str(config.get("group"))
        if config.get("aggregate_metric_list"):
            tasks = ", ".join(self._index.expand(name)) or "its members"
            raise _unsupported(
                f"group {name} ({source}): aggregate_metric_list, a score over several tasks, is not supported yet; "
                f"ask for its tasks instead: {tasks}"
            )
        own = {key: value for key, value in config.items() if key not in _GROUP_KEYS}
        for member in config["task"]:
            yield from self._member(member, {**own, **overrides}, name, source, (*above, name))

    def _member(
        self, member: Any, overrides: Mapping[str, Any], group: str, source: str, above: tuple[str, ...]
    ) -> Iterator[ResolvedTask]:
        if isinstance(member, str):
            yield from self._named(member, overrides, group, above)
            return
        task = member.get("task")
        if not isinstance(task, str):
            yield from self._group(member, overrides, source, above)
            return
        merged = {**{key: value for key, value in member.items() if key != "task"}, **overrides}
        if self._index.get(task) is not None:
            yield from self._named(task, merged, group, above)
        else:
            yield ResolvedTask(task, {**merged, "task": task}, source, group)


def unknown_task(name: str, index: TaskIndex) -> EvaluationError:
    """The error for a name that nothing carries, with the names that resemble it."""
    return EvaluationError("UNKNOWN_TASK", f"unknown task {name!r}; {suggest(index.closest(name))}")


def suggest(names: Sequence[str]) -> str:
    """``did you mean …`` for the given names, or how to make a task known."""
    if names:
        return "did you mean " + " or ".join(repr(name) for name in names) + "?"
    return "list the known ones, or add the folder of its YAML file to the include paths"


def _unique(tasks: Iterable[ResolvedTask]) -> tuple[ResolvedTask, ...]:
    kept: dict[str, ResolvedTask] = {}
    for task in tasks:
        known = kept.get(task.name)
        if known is None:
            kept[task.name] = task
        elif known.values != task.values:
            renamed = _renamed(task, known, kept)
            kept[renamed.name] = renamed
    return tuple(kept.values())


def _renamed(task: ResolvedTask, known: ResolvedTask, kept: Mapping[str, ResolvedTask]) -> ResolvedTask:
    if task.group != known.group or not task.group:
        places = " and ".join(repr(item.group) if item.group else "by its name" for item in (known, task))
        message = (
            f"task {task.name} is asked for twice with different settings ({places}); submit them as two evaluations"
        )
        raise EvaluationError("TASK_LOAD_FAILED", message)
    number = 1
    while (name := f"{task.name}-{number}") in kept:
        number += 1
    return ResolvedTask(name, {**task.values, "task": name}, task.source, task.group)


def _unsupported(message: str) -> EvaluationError:
    return EvaluationError("UNSUPPORTED_TASK", message)
