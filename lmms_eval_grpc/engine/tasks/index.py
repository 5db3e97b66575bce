"""What tasks there are: names, kinds and files, from a scan of folders that runs no task's code.

Light: needs PyYAML and the standard library only, so that a server can answer for its tasks in milliseconds.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError, YamlReader

Kind = Literal["task", "group", "tag", "python_task"]

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
"""The tasks that ship with the package."""

_SKIPPED_FOLDERS = frozenset({"__pycache__", ".ipynb_checkpoints"})


def is_task_file(name: str) -> bool:
    """Whether ``name``, where a task is asked for, is meant as the path of a YAML file."""
    return name.endswith((".yaml", ".yml"))


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """One name that an evaluation may ask for."""

    name: str
    kind: Kind
    output_type: str = ""
    """How the model is asked, e.g. ``generate_until``; empty for groups and tags."""
    description: str = ""
    """From the file's ``metadata.description``; empty where there is none."""
    members: tuple[str, ...] = ()
    """Names directly below a group or a tag, in their order; empty for tasks."""
    source: str | None = None
    """The YAML file; None for tags, which many files make together."""
    tags: tuple[str, ...] = ()
    """Tags that a task carries."""


@dataclass(frozen=True, slots=True)
class IndexProblem:
    """A file that the index could not use as it is; the scan goes on without it."""

    path: Path
    reason: str


class TaskIndex:
    """The tasks of some folders, by name. Made by :meth:`scan`; does not change afterwards."""

    def __init__(
        self,
        entries: Mapping[str, TaskEntry],
        groups: Mapping[str, Mapping[str, Any]],
        problems: Sequence[IndexProblem],
    ) -> None:
        self._entries = {name: entries[name] for name in sorted(entries)}
        self._groups = dict(groups)
        self._problems = tuple(problems)

    @classmethod
    def scan(cls, include_paths: Sequence[Path] = (), include_defaults: bool = True) -> TaskIndex:
        """Reads every ``*.yaml`` below the package's own benchmarks (if ``include_defaults``) and each include path.

        Folders are walked in sorted order, so that two machines agree. Where two files claim one name, the first folder
        wins, and within a folder the first file; the loser is listed by :meth:`problems`. A later folder adds nothing
        to a tag of an earlier one. A folder that does not exist is a problem too, not an error.
        """
        folders = ([DEFAULT_FOLDER] if include_defaults else []) + [Path(path).expanduser() for path in include_paths]
        scan = _Scan()
        for folder in folders:
            scan.add_folder(folder)
        return cls(scan.entries, scan.groups, scan.problems)

    def entries(self) -> tuple[TaskEntry, ...]:
        """All entries, sorted by name."""
        return tuple(self._entries.values())

    def get(self, name: str) -> TaskEntry | None:
        return self._entries.get(name)

    def closest(self, name: str, n: int = 3) -> tuple[str, ...]:
        """At most ``n`` known names that resemble ``name``, the best first; for "did you mean"."""
        lower = {known.lower(): known for known in reversed(self._entries)}
        return tuple(lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=n, cutoff=0.5))

    def problems(self) -> tuple[IndexProblem, ...]:
        return self._problems

    def group_config(self, name: str) -> Mapping[str, Any]:
        """The YAML mapping of group ``name``. Raises KeyError for any other name."""
        return self._groups[name]

    def expand(self, name: str) -> tuple[str, ...]:
        """The tasks that ``name`` stands for: itself, the leaves of a group or tag, or all matches of a pattern.

        In order (patterns: sorted by name), each task once. Empty when nothing of that name is known.
        """
        found: dict[str, None] = {}
        for match in self.matches(name):
            self._add_leaves(match, found, set())
        return tuple(found)

    def matches(self, name: str) -> tuple[str, ...]:
        """``name`` itself if it is known, else the known names that it matches as a pattern, sorted."""
        if name in self._entries:
            return (name,)
        if not any(sign in name for sign in "*?["):
            return ()
        return tuple(fnmatch.filter(self._entries, name))

    def _add_leaves(self, name: str, found: dict[str, None], above: set[str]) -> None:
        entry = self._entries.get(name)
        if entry is None or name in above:
            return
        if entry.kind in ("task", "python_task"):
            found[name] = None
        for member in entry.members:
            self._add_leaves(member, found, above | {name})


class _Scan:
    """One scan under way."""

    def __init__(self) -> None:
        self.entries: dict[str, TaskEntry] = {}
        self.groups: dict[str, Mapping[str, Any]] = {}
        self.problems: list[IndexProblem] = []
        self._reader = YamlReader()
        self._seen: set[Path] = set()

    def add_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self.problems.append(IndexProblem(folder, "no such folder"))
            return
        earlier = dict(self.entries)
        entries: dict[str, TaskEntry] = {}
        for path in _yaml_files(folder):
            real = path.resolve()
            if real in self._seen:
                continue
            self._seen.add(real)
            try:
                self._add_file(path, self._reader.read(path), entries, earlier)
            except TaskFileError as error:
                self.problems.append(IndexProblem(path, str(error)))
        self.entries = {**entries, **earlier}

    def _add_file(
        self, path: Path, config: Mapping[str, Any], entries: dict[str, TaskEntry], earlier: Mapping[str, TaskEntry]
    ) -> None:
        task, tags = config.get("task"), _tags(path, config)
        if "class" in config:
            if not isinstance(task, str):
                raise TaskFileError(f"{path}: a file with a class needs a task name, as text")
            entry = TaskEntry(task, "python_task", _output_type(config), _description(config), source=str(path))
        elif isinstance(task, list):
            group = config.get("group")
            if not isinstance(group, str):
                raise TaskFileError(f"{path}: a file with a list of tasks needs a group name, as text")
            members = tuple(_member_name(path, member) for member in task)
            entry = TaskEntry(group, "group", description=_description(config), members=members, source=str(path))
        elif isinstance(task, str):
            entry = TaskEntry(task, "task", _output_type(config), _description(config), source=str(path), tags=tags)
        else:
            return  # A template, or a YAML file that has nothing to do with tasks.
        taken = earlier.get(entry.name) or entries.get(entry.name)
        if taken is not None and (taken.kind != "tag" or entry.name in earlier):
            owner = taken.source or "the tag of that name"
            self._report(
                path, f"the name {entry.name!r} is already taken by {owner}, which is used; rename one of them"
            )
            return
        entries[entry.name] = entry
        if entry.kind == "group":
            self.groups[entry.name] = config
        for tag in tags if entry.kind == "task" else ():
            if tag in earlier:
                self._report(
                    path, f"the tag {tag!r} belongs to an earlier folder; {entry.name!r} is not among its tasks"
                )
            else:
                _tag_task(tag, entry.name, entries)

    def _report(self, path: Path, reason: str) -> None:
        self.problems.append(IndexProblem(path, f"{path}: {reason}"))


def _yaml_files(folder: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".yaml"):
                yield Path(current) / name


def _tag_task(tag: str, task: str, entries: dict[str, TaskEntry]) -> None:
    known = entries.get(tag)
    if known is None:
        entries[tag] = TaskEntry(tag, "tag", members=(task,))
    elif known.kind == "tag" and task not in known.members:
        entries[tag] = replace(known, members=(*known.members, task))


def _tags(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """``tag``, and ``group`` inside a task's own file, which is the older name for the same."""
    if not isinstance(config.get("task"), str):
        return ()
    values: list[str] = []
    for key in ("tag", "group"):
        value = config.get(key)
        listed = [value] if isinstance(value, str) else value or []
        if not isinstance(listed, list) or not all(isinstance(tag, str) for tag in listed):
            raise TaskFileError(f"{path}: {key} must be a name or a list of names, but is {value!r}")
        values += listed
    return tuple(dict.fromkeys(values))


def _member_name(path: Path, member: Any) -> str:
    name = member if isinstance(member, str) else None
    if isinstance(member, Mapping):
        task = member.get("task")
        name = task if isinstance(task, str) else member.get("group")
    if not isinstance(name, str):
        raise TaskFileError(
            f"{path}: a member of a group must be a name, or a mapping with task or group, but is {member!r}"
        )
    return name


def _output_type(config: Mapping[str, Any]) -> str:
    value = config.get("output_type", "generate_until")
    return value if isinstance(value, str) else str(value)


def _description(config: Mapping[str, Any]) -> str:
    metadata = config.get("metadata")
    value = metadata.get("description") if isinstance(metadata, Mapping) else None
    return " ".join(value.split()) if isinstance(value, str) else ""
