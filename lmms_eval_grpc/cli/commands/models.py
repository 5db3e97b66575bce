"""``models``: the backends, and what is missing to use them."""

from __future__ import annotations

import argparse
import shlex

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.requirements import require
from lmms_eval_grpc.cli.words import to_document
from lmms_eval_grpc.v1 import catalog_pb2

HEADINGS = ("name", "kind", "accepts", "aliases", "available")


def run(args: argparse.Namespace, output: Output) -> int:
    """One row per backend, sorted."""
    models = _local_models() if args.local else _ask(args)
    if output.as_json:
        output.document({"models": [to_document(model) for model in models]})
    else:
        output.table(Table(HEADINGS, [_make_row(model) for model in models], foldable=frozenset(HEADINGS[2:])))
    return ExitCode.OK


def _ask(args: argparse.Namespace) -> list[catalog_pb2.ModelInfo]:
    with connect(args) as client:
        return list(client.list_models_detailed())


def _local_models() -> list[catalog_pb2.ModelInfo]:
    require("models --local", ("yaml",))
    from lmms_eval_grpc.server.catalog import available_models
    from lmms_eval_grpc.server.convert_catalog import write_model

    return [write_model(entry, missing) for entry, missing in available_models()]


def _make_row(model: catalog_pb2.ModelInfo) -> tuple[str, ...]:
    kind = catalog_pb2.ModelKind.Name(model.kind) if model.kind in catalog_pb2.ModelKind.values() else str(model.kind)
    return (
        model.name,
        kind.removeprefix("MODEL_KIND_").lower(),
        ", ".join(model.modalities),
        ", ".join(model.aliases),
        "yes" if model.available else f"no: pip install {shlex.join(model.missing_packages)}",
    )
