"""``tasks``: what can be evaluated."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.words import shorten, to_document
from lmms_eval_grpc.v1 import catalog_pb2

HEADINGS = ("name", "kind", "output", "description")


def run(args: argparse.Namespace, output: Output) -> int:
    """One row per name, sorted."""
    kinds = [catalog_pb2.TaskKind.Value(f"TASK_KIND_{kind.upper()}") for kind in args.kind]
    with connect(args) as client:
        tasks = client.list_tasks_detailed(args.filter, kinds)
    if output.as_json:
        output.document({"tasks": [to_document(task) for task in tasks]})
    elif tasks:
        output.table(Table(HEADINGS, [_make_row(task) for task in tasks], foldable=frozenset({"name", "description"})))
    else:
        output.remark(f"no name matches {args.filter!r}" if args.filter else "no tasks")
    return ExitCode.OK


def _make_row(task: catalog_pb2.TaskInfo) -> tuple[str, ...]:
    kind = catalog_pb2.TaskKind.Name(task.kind) if task.kind in catalog_pb2.TaskKind.values() else str(task.kind)
    members = f"stands for {', '.join(task.members)}" if task.members else ""
    text = ". ".join(part for part in (task.description.rstrip("."), members) if part)
    return (task.name, kind.removeprefix("TASK_KIND_").lower(), task.output_type, shorten(text, 100))
