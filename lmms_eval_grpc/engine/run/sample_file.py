"""``samples.jsonl``: one line per sample and filter, appended as samples are scored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.engine.record.redact import hide_in_json
from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.engine.run.log import read_sound_lines


@dataclass(frozen=True, slots=True)
class StoredRecords:
    """Records that are read from a file each time they are gone through: all of them together may be large."""

    path: Path
    positions: Sequence[int]
    """Where the record's line begins, in bytes."""

    def __iter__(self) -> Iterator[SampleRecord]:
        with self.path.open("rb") as file:
            for position in self.positions:
                file.seek(position)
                yield SampleRecord.from_json(file.readline().decode())


class SampleFile:
    """Appends each record once, also when an evaluation is taken up again after a crash.

    A sample has further records only where an attempt comes to another outcome than the one before: it was left out for
    want of tokens (``budget_exceeded``) and is answered now, or a scorer or judge failed and does no more. The newest
    outcome counts.

    The file only ever grows, so a reader's position stays good. What it holds follows from the run log, so it is
    flushed and not forced to disk.
    """

    def __init__(self, path: Path, *, keep: bool, secrets: Sequence[str] = ()) -> None:
        """Takes up the file of an earlier attempt, torn end cut off; without ``keep`` it is begun anew. ``secrets`` do
        not get into it."""
        self._secrets = secrets
        self.path = path
        self._size = 0
        """Of the file, in bytes."""
        self._written: dict[tuple[str, int], tuple[str, dict[str, int]]] = {}
        """The newest outcome by task and document, and where the record of it is for each filter that has one."""
        if keep and path.exists():
            self._take_up(path)
            os.truncate(path, self._size)
        self._file = path.open("ab" if keep else "wb")

    def _take_up(self, path: Path) -> None:
        _, records = read_sound_lines(path)
        with path.open("rb") as file:
            for record, line in zip(records, file, strict=False):
                try:
                    key = record["task"], record["doc_id"], record["filter"], record["outcome"]
                except KeyError:
                    return  # No record: like a torn one it ends what can be relied on.
                self._note(*key, len(line))

    def has(self, task: str, doc_id: int, filter_name: str, outcome: str) -> bool:
        """Whether that is the newest record of the sample and filter."""
        newest, filters = self._written.get((task, doc_id), ("", {}))
        return newest == outcome and filter_name in filters

    def append(self, records: Iterable[SampleRecord]) -> None:
        for record in records:
            if not self.has(record.task, record.doc_id, record.filter, record.outcome):
                line = hide_in_json(record.to_json(), self._secrets).encode() + b"\n"
                self._file.write(line)
                self._note(record.task, record.doc_id, record.filter, record.outcome, len(line))
        self._file.flush()

    def by_task(self) -> dict[str, StoredRecords]:
        """The records so far of each task that has some, in the order of the documents, without those that a later one
        made void."""
        positions: dict[str, list[int]] = {}
        for (task, _), (_, filters) in sorted(self._written.items(), key=lambda item: item[0]):
            positions.setdefault(task, []).extend(filters.values())
        return {task: StoredRecords(self.path, of_task) for task, of_task in positions.items()}

    def _note(self, task: str, doc_id: int, filter_name: str, outcome: str, length: int) -> None:
        newest, filters = self._written.get((task, doc_id), ("", {}))
        if newest != outcome:
            filters = {}
            self._written[task, doc_id] = (outcome, filters)
        filters[filter_name] = self._size
        self._size += length

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
