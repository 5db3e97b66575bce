"""Rows of a dataset one by one, without what a look-up of its own costs for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

_BLOCK_ROWS = 32
"""Rows that are looked up together: asking ``datasets`` for one takes several times as long as converting it, and rows
are asked for in turn, to make a request, to score it and for the record."""
_KEPT_BLOCKS = 4
"""Requests are made far ahead of the samples that are scored."""
_BLOCK_BYTES = 1 << 24
"""Of a block that has to be copied together, about; others are views of the dataset's file."""


class Rows:
    """The rows of a ``datasets.Dataset``, by number. For any number of threads."""

    def __init__(self, dataset: Any) -> None:
        from datasets.features.features import decode_nested_example, require_decoding

        self._dataset = dataset
        shown = dataset.format
        # A dataset with a format or a transform of its own knows best what its rows look like.
        self._has_format = shown["type"] is not None or set(shown["columns"]) != set(dataset.column_names)
        # All features together would be gone through anew for every row.
        self._decoded = {name: feature for name, feature in dataset.features.items() if require_decoding(feature)}
        self._decode: Callable[[Any, Any], Any] = decode_nested_example
        self._tables = dataset.with_format("arrow")
        self._size = _BLOCK_ROWS
        if dataset._indices is not None:  # rows that were selected or shuffled are copied
            stored = dataset.data
            self._size = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES * stored.num_rows // max(1, stored.nbytes)))
        # Arrow's arrays and no Python objects: those are made anew each time, since whoever gets them may change them.
        self._block = functools.lru_cache(maxsize=_KEPT_BLOCKS)(self._read_block)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """As ``dataset[number]``: media are decoded. Raises what decoding raises."""
        if self._has_format:
            row: dict[str, Any] = self._dataset[number]
            return row
        row = self.stored(number)
        for name, feature in self._decoded.items():
            row[name] = self._decode(feature, row[name])
        return row

    def stored(self, number: int) -> dict[str, Any]:
        """The row with all its columns as they are stored: nothing is decoded."""
        columns = self._block(number // self._size)
        return {name: column[number % self._size].as_py() for name, column in columns.items()}

    def _read_block(self, block: int) -> Mapping[str, Any]:
        start = block * self._size
        table = self._tables[start : min(start + self._size, len(self._dataset))]
        return dict(zip(table.column_names, table.columns, strict=True))
