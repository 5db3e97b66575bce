"""What one YAML file adds to the index: the name, the kind and the members that it declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError, YamlReader

FileKind = Literal["task", "group", "python_task", ""]


@dataclass(frozen=True, slots=True)
class TaskFile:
    """One file, classified."""

    kind: FileKind = ""
    """Empty for a template, or a YAML file that has nothing to do with tasks."""
    name: str = ""
    output_type: str = ""
    description: str = ""
    members: tuple[str, ...] = ()
    """Of a group, in their order."""
    tags: tuple[str, ...] = ()
    """Of a task."""
    group_config: Mapping[str, Any] = field(default_factory=dict)
    """The whole mapping of a group."""


def read_task_file(reader: YamlReader, path: Path) -> TaskFile:
    """Reads and classifies ``path``. Raises TaskFileError."""
    config = reader.read(path)
    task, tags = config.get("task"), _tags(path, config)
    if "class" in config:
        if not isinstance(task, str):
            raise TaskFileError(f"{path}: a file with a class needs a task name, as text")
        return TaskFile("python_task", task, _output_type(config), _description(config))
    if isinstance(task, list):
        group = config.get("group")
        if not isinstance(group, str):
            raise TaskFileError(f"{path}: a file with a list of tasks needs a group name, as text")
        members = tuple(_member_name(path, member) for member in task)
        return TaskFile("group", group, description=_description(config), members=members, group_config=config)
    if isinstance(task, str):
        return TaskFile("task", task, _output_type(config), _description(config), tags=tags)
    return TaskFile()


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
