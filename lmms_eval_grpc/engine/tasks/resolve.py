"""From the names in a request to task configurations: groups, tags and patterns expanded, overrides applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.tasks.index import TaskEntry, TaskIndex, is_task_file
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError, YamlReader

_GROUP_KEYS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata"})
"""Keys of a group file that are the group's own; every other key overrides that key of all its tasks."""
_MOST_TOLD = 3
"""Files that could not be read, in a message about an unknown name."""
_LONGEST_TOLD = 300
"""Characters of a reason that is told."""


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


@dataclass(frozen=True, slots=True)
class ResolvedGroup:
    """A group of what was asked for."""

    name: str
    values: Mapping[str, Any]
    """The group's own keys; functions are not loaded yet."""
    source: str
    """The YAML file, for messages."""
    members: tuple[str, ...]
    """Names of the tasks and groups directly below it, in their order."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What some names stand for."""

    tasks: tuple[ResolvedTask, ...]
    """In the order of the request, each once."""
    groups: tuple[ResolvedGroup, ...]
    """Every group that was passed on the way to them, outer ones first."""


def resolve_tasks(names: Sequence[str], index: TaskIndex) -> tuple[ResolvedTask, ...]:
    """The tasks of :func:`resolve`."""
    return resolve(names, index).tasks


def resolve(names: Sequence[str], index: TaskIndex) -> Resolution:
    """The tasks that ``names`` stand for, in the order of the request, each once, and the groups they belong to.

    A name is a task, a group, a tag, a pattern, or the path of a YAML file. A task that one group lists twice with
    different settings is kept twice, the second as ``name-1``.

    Raises EvaluationError: UNKNOWN_TASK, or TASK_LOAD_FAILED, the last also when two groups want different settings for
    one task.
    """
    resolver = _Resolver(index)
    try:
        for name in names:
            resolver.request(name)
    except TaskFileError as error:
        raise EvaluationError("TASK_LOAD_FAILED", str(error)) from error
    return Resolution(tuple(resolver.tasks.values()), tuple(group for group in resolver.groups.values() if group))


class _Resolver:
    """One resolution under way. The methods return the names that stand for what they added."""

    def __init__(self, index: TaskIndex) -> None:
        self.tasks: dict[str, ResolvedTask] = {}
        self.groups: dict[str, ResolvedGroup | None] = {}
        """None while the group's members are being resolved."""
        self._index = index
        self._reader = YamlReader()

    def request(self, name: str) -> None:
        if is_task_file(name):
            self._file(Path(name).expanduser())
            return
        matches = self._index.matches(name)
        if not matches:
            raise unknown_task(name, self._index)
        for match in matches:
            self._named(match, {}, "", ())

    def _file(self, path: Path) -> None:
        values = self._reader.read(path)
        if isinstance(values.get("task"), list):
            self._group(values, {}, str(path), ())
        elif isinstance(values.get("task"), str):
            self._keep(ResolvedTask(values["task"], values, str(path), ""))
        else:
            raise TaskFileError(f"{path}: is not a task; it has no key called task")

    def _named(self, name: str, overrides: Mapping[str, Any], group: str, above: tuple[str, ...]) -> list[str]:
        entry = self._index.get(name)
        if entry is None:
            raise EvaluationError("TASK_LOAD_FAILED", f"group {group}: its member {name!r} is no task, group or tag")
        if name in above:
            raise EvaluationError("TASK_LOAD_FAILED", f"group {name} contains itself: {' -> '.join((*above, name))}")
        if entry.kind == "tag":
            return [
                found for member in entry.members for found in self._named(member, overrides, group, (*above, name))
            ]
        if entry.kind == "group":
            return self._group({**self._index.group_config(name), **overrides}, {}, str(entry.source), above)
        return [self._keep(self._task(entry, overrides, group))]

    def _task(self, entry: TaskEntry, overrides: Mapping[str, Any], group: str) -> ResolvedTask:
        source = str(entry.source)
        values = {**self._reader.read(Path(source)), **overrides, "task": entry.name}
        return ResolvedTask(entry.name, values, source, group)

    def _group(
        self, config: Mapping[str, Any], overrides: Mapping[str, Any], source: str, above: tuple[str, ...]
    ) -> list[str]:
        name = config.get("group")
        if not isinstance(name, str):
            raise TaskFileError(
                f"{source}: a group inside a group needs a name (group: …), but is {dict(config)!r:.200}"
            )
        shared = {**{key: value for key, value in config.items() if key not in _GROUP_KEYS}, **overrides}
        self.groups.setdefault(name, None)
        members: dict[str, None] = {}
        for member in config["task"]:
            members.update(dict.fromkeys(self._member(member, shared, name, source, (*above, name))))
        own = {key: value for key, value in config.items() if key in _GROUP_KEYS}
        self.groups[name] = ResolvedGroup(name, own, source, tuple(members))
        return [name]

    def _member(
        self, member: Any, overrides: Mapping[str, Any], group: str, source: str, above: tuple[str, ...]
    ) -> list[str]:
        if isinstance(member, str):
            return self._named(member, overrides, group, above)
        task = member.get("task")
        if not isinstance(task, str):
            return self._group(member, overrides, source, above)
        own = self._reader.expand(member, Path(source)) if "include" in member else member
        merged = {**{key: value for key, value in own.items() if key != "task"}, **overrides}
        if self._index.get(task) is not None:
            return self._named(task, merged, group, above)
        return [self._keep(ResolvedTask(task, {**merged, "task": task}, source, group))]

    def _keep(self, task: ResolvedTask) -> str:
        known = self.tasks.get(task.name)
        if known is not None and known.values == task.values:
            return task.name
        if known is not None:
            task = _renamed(task, known, self.tasks)
        self.tasks[task.name] = task
        return task.name


def unknown_task(name: str, index: TaskIndex) -> EvaluationError:
    """The error for a name that nothing carries. Of files that could not be read it tells the names only: where it is
    raised, nobody takes out the paths that a server does not tell."""
    return EvaluationError("UNKNOWN_TASK", describe_unknown(name, index, reasons=False))


def describe_unknown(name: str, index: TaskIndex, *, reasons: bool = True) -> str:
    """That nothing carries ``name``, with the files that could not be read and may declare it, and the names that
    resemble it, or how to make a task known. ``reasons``: why those of include paths could not be read, too."""
    unread = _unread(name, index, reasons)
    told = f"it may be in what could not be read ({unread}); " if unread else ""
    if any(sign in name for sign in "*?["):
        return f"no task matches the pattern {name!r}; {told}".removesuffix("; ")
    close = index.closest(name)
    if close:
        return f"unknown task {name!r}; {told}did you mean {' or '.join(map(repr, close))}?"
    return f"unknown task {name!r}; {told}list the known ones, or add the folder of its YAML file to the include paths"


def _unread(name: str, index: TaskIndex, reasons: bool) -> str:
    """Some of the task files that the index could not read: one that is called like the task first, then those of the
    include paths. Other folders are the machine's, so of their files only the names are told."""
    problems = [problem for problem in index.problems() if problem.unread and problem.path.name]
    problems.sort(key=lambda problem: (problem.path.stem != name, not index.is_given(problem.path)))
    told = []
    for problem in problems[:_MOST_TOLD]:
        # All of a reason or nothing: a server, which takes out paths that it does not tell, knows none that is cut.
        whole = reasons and index.is_given(problem.path) and len(problem.reason) <= _LONGEST_TOLD
        told.append(str(problem) if whole else problem.path.name)
    more = len(problems) - _MOST_TOLD
    return "; ".join([*told, f"and {more} more"] if more > 0 else told)


def _renamed(task: ResolvedTask, known: ResolvedTask, kept: Mapping[str, ResolvedTask]) -> ResolvedTask:
    if task.group != known.group or not task.group:
        places = " and ".join(
            f"in group {item.group!r}" if item.group else f"by itself ({item.source})" for item in (known, task)
        )
        message = (
            f"task {task.name} is asked for twice with different settings ({places}); submit them as two evaluations"
        )
        raise EvaluationError("TASK_LOAD_FAILED", message)
    number = 1
    while (name := f"{task.name}-{number}") in kept:
        number += 1
    return ResolvedTask(name, {**task.values, "task": name}, task.source, task.group)
