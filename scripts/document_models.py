#!/usr/bin/env python3
"""Writes the tables of docs/models.md from the catalogue of backends; with --check only says whether they are up to
date."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType

from lmms_eval_grpc.engine.models import catalog
from lmms_eval_grpc.engine.models.entry import ModelArgument, ModelEntry

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- made by scripts/document_models.py: begin -->\n", "<!-- end -->\n"
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "mapping"}


def render() -> str:
    """The tables of backends, then of the arguments of those that share them."""
    return "\n".join([*_backends(), "", "## Arguments", *_arguments(), ""])


def _backends() -> Iterator[str]:
    yield "| backend | other names | reads | needs | |"
    yield "|---|---|---|---|---|"
    for entry in catalog.ENTRIES:
        reads, needs = ", ".join(entry.modalities), ", ".join(entry.requires)
        yield _row(f"`{entry.name}`", _names(entry.aliases), reads, needs, entry.description)


def _arguments() -> Iterator[str]:
    groups: list[list[ModelEntry]] = []
    for entry in catalog.ENTRIES:
        group = next((group for group in groups if group[0].arguments == entry.arguments), None)
        if group is None:
            groups.append([entry])
        else:
            group.append(entry)
    for group in groups:
        yield from ("", f"### {_names(entry.name for entry in group)}", "")
        yield "| argument | other names | | default | |"
        yield "|---|---|---|---|---|"
        for name, argument in group[0].arguments.items():
            yield _row(f"`{name}`", _names(argument.other_names), _type(argument), _default(argument),
                       argument.description)  # fmt: skip


def _row(*cells: str) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _names(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]


def _type(argument: ModelArgument) -> str:
    types = argument.type if isinstance(argument.type, tuple) else (argument.type,)
    return " or ".join(TYPES[kind] for kind in types if kind is not NoneType)


def _default(argument: ModelArgument) -> str:
    if argument.required:
        return "required"
    value = argument.default
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main() -> int:
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    wanted = f"{head}{BEGIN}\n{render()}\n{END}{tail}"
    if "--check" in sys.argv:
        return int(text != wanted)
    DOCUMENT.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
