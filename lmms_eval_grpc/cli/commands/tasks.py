"""``tasks``: what can be evaluated."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.requirements import require
from lmms_eval_grpc.cli.words import shorten, to_document
from lmms_eval_grpc.v1 import catalog_pb2
from lmms_eval_grpc.v1.evaluation_service_pb2 import ListTasksRequest

HEADINGS = ("name", "kind", "output", "description")


WORDS: dict[str, tuple[str, ...]] = {"list": (), "groups": ("group",), "tags": ("tag",), "subtasks": ("task",)}
"""lmms-eval's words for a listing, with the kinds that they mean; none: all."""


def run(args: argparse.Namespace, output: Output) -> int:
    """One row per name, sorted."""
    if args.local or args.include_path or args.filter in WORDS:
        return list_local(args.filter, args.kind, args.include_path, output)
    with connect(args) as client:
        tasks = client.list_tasks_detailed(args.filter, _kinds(args.kind))
    return _show(tasks, args.filter, output)


def list_local(words: str, kinds: Sequence[str], include_path: Sequence[str], output: Output) -> ExitCode:
    """What is installed here; no task's code is run. ``words`` is a filter, or one of ``WORDS``."""
    require("tasks --local", ("yaml",))
    from lmms_eval_grpc.engine.tasks.index import TaskIndex
    from lmms_eval_grpc.server.convert_catalog import write_task
    from lmms_eval_grpc.server.listings import is_wanted

    kinds = [*kinds, *WORDS.get(words, ())]
    request = ListTasksRequest(filter="" if words in WORDS else words, kinds=_kinds(kinds))
    index = TaskIndex.open([Path(path) for path in include_path])
    for problem in index.problems():
        output.remark(f"not used: {problem}")
    return _show([write_task(entry) for entry in index.entries() if is_wanted(entry, request)], request.filter, output)


def _kinds(kinds: Iterable[str]) -> list[catalog_pb2.TaskKind.ValueType]:
    return [catalog_pb2.TaskKind.Value(f"TASK_KIND_{kind.upper()}") for kind in kinds]


def _show(tasks: Sequence[catalog_pb2.TaskInfo], filter_text: str, output: Output) -> ExitCode:
    if output.as_json:
        output.document({"tasks": [to_document(task) for task in tasks]})
    elif tasks:
        output.table(Table(HEADINGS, [_make_row(task) for task in tasks], foldable=frozenset({"name", "description"})))
    else:
        output.remark(f"no name matches {filter_text!r}" if filter_text else "no tasks")
    return ExitCode.OK


def _make_row(task: catalog_pb2.TaskInfo) -> tuple[str, ...]:
    kind = catalog_pb2.TaskKind.Name(task.kind) if task.kind in catalog_pb2.TaskKind.values() else str(task.kind)
    members = f"stands for {', '.join(task.members)}" if task.members else ""
    text = ". ".join(part for part in (task.description.rstrip("."), members) if part)
    return (task.name, kind.removeprefix("TASK_KIND_").lower(), task.output_type, shorten(text, 100))
