"""Tables of per-sample records: columns of one type each, as data frames and Arrow want them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from typing import Any

_TEXT, _INTEGER = "string", "int64"
_COLUMNS: dict[str, str | list[str]] = {
    "task": _TEXT,
    "doc_id": _INTEGER,
    "filter": _TEXT,
    "outcome": _TEXT,
    "prompt": _TEXT,
    "target": _TEXT,
    "responses": [_TEXT],
    "filtered_responses": [_TEXT],
    "input_tokens": _INTEGER,
    "output_tokens": _INTEGER,
    "error": _TEXT,
    "doc_hash": _TEXT,
}
"""The columns of every table, with their types; each score is one more, as ``scores.NAME``."""
_SCORES = "scores."


def tabulate(records: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Columns from records: the fixed ones, then ``scores.NAME`` for each score that any record has."""
    rows = list(records)
    columns = {name: [row[name] for row in rows] for name in _COLUMNS}
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        columns[_SCORES + name] = _one_type([row["scores"].get(name) for row in rows])
    return columns


def make_dataset(datasets: Any, columns: dict[str, list[Any]]) -> Any:
    """A Dataset whose types do not depend on whether there are rows."""
    types: dict[str, Any] = {
        name: [datasets.Value(kind[0])] if isinstance(kind, list) else datasets.Value(kind)
        for name, kind in _COLUMNS.items()
    }
    for name, values in columns.items():
        if name not in types:
            types[name] = datasets.Value(_TEXT if any(isinstance(value, str) for value in values) else "float64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(types))


def to_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def _one_type(values: list[Any]) -> list[float | None] | list[str | None]:
    """All as numbers, or all as JSON texts; None stays None."""
    if all(value is None or isinstance(value, int | float) for value in values):
        return [None if value is None else float(value) for value in values]
    return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]


def load(name: str) -> Any:
    """The module of that name, an optional one.

    Raises:
        ImportError: it is not installed; says what to do.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"to make a table of samples with {name} it must be installed here: pip install {name}; "
            "to_list() and to_jsonl(path) need nothing more",
            name=name,
        ) from error
