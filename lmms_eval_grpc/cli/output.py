"""Where output goes: plain lines always work; rich makes tables nicer where it is installed and someone looks."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and line feed."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right_aligned: frozenset[str] = frozenset()
    """Headings of the columns that hold numbers."""
    foldable: frozenset[str] = frozenset()
    """Headings of the columns that take several lines where the terminal is too narrow."""
    cuttable: frozenset[str] = frozenset()
    """Headings of the columns that lose their ends where the terminal is too narrow."""


class Output:
    """What a command prints to: results to ``stream``, remarks and errors to ``errors``."""

    def __init__(self, *, as_json: bool = False, plain: bool = False, stream: TextIO | None = None) -> None:
        self.as_json = as_json
        self.stream = sys.stdout if stream is None else stream
        self.errors = sys.stderr
        self.is_terminal = self.stream.isatty()
        wanted = self.is_terminal and not as_json and not plain and os.environ.get("TERM") != "dumb"
        self.console: Console | None = _make_console(self.stream) if wanted else None
        """Set when rich is to be used."""

    def line(self, text: str = "") -> None:
        """One line of the result, seen at once also by the reader of a pipe."""
        print(make_harmless(text) if self.is_terminal else text, file=self.stream, flush=True)

    def text(self, text: str) -> None:
        """Text that brings its own line ends."""
        self.stream.write(text)
        self.stream.flush()

    def document(self, document: Mapping[str, Any]) -> None:
        """One JSON document, indented for eyes on a terminal."""
        self.line(to_json(document, indent=2 if self.is_terminal else None))

    def record(self, record: Mapping[str, Any]) -> None:
        """One line of a stream of JSON documents."""
        self.line(to_json(record))

    def remark(self, text: str) -> None:
        """For people, beside the result."""
        print(text, file=self.errors, flush=True)

    def report(self, document: Mapping[str, Any]) -> None:
        """An error as JSON, beside the result."""
        self.remark(to_json(document))

    def table(self, table: Table) -> None:
        """A table; nothing but its headings when it has no rows."""
        if self.console is None:
            for line in format_table(table):
                self.line(line)
        else:
            self.console.print(_make_rich_table(table))


def make_harmless(text: str) -> str:
    """``text`` without control characters: what a model answers could otherwise steer the terminal."""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every parser takes: numbers that JSON lacks are written as protobuf's JSON writes them."""
    return json.dumps(_without_odd_numbers(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _without_odd_numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _without_odd_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_odd_numbers(item) for item in value]
    return value


def format_table(table: Table) -> list[str]:
    """The table as aligned lines."""
    cells = [list(table.headings), *(list(row) for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.headings))]
    return [
        "  ".join(
            cell.rjust(width) if heading in table.right_aligned else cell.ljust(width)
            for cell, width, heading in zip(row, widths, table.headings, strict=True)
        ).rstrip()
        for row in cells
    ]


def _make_console(stream: TextIO) -> Console | None:
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream, highlight=False)


def _make_rich_table(table: Table) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # Room is scarce: a column without content is left out.
    shown = [column for column in range(len(table.headings)) if any(row[column] for row in table.rows)]
    for column in shown:
        heading = table.headings[column]
        made.add_column(
            Text(heading, no_wrap=True),
            justify="right" if heading in table.right_aligned else "left",
            no_wrap=heading not in table.foldable | table.cuttable,
            overflow="fold",
        )
    for row in table.rows:
        # Text objects, so that brackets in the data are not taken for markup.
        made.add_row(
            *(
                Text(row[column], no_wrap=True, overflow="ellipsis")
                if table.headings[column] in table.cuttable
                else Text(row[column])
                for column in shown
            )
        )
    return made
