"""``samples.jsonl``: one line per sample and filter, appended as samples are scored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lmms_eval_grpc.engine.record.redact import hide_in_json
from lmms_eval_grpc.engine.record.samples import SampleRecord, valid_records
from lmms_eval_grpc.engine.run.log import read_sound_lines


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
        self._written: dict[tuple[str, int], tuple[str, set[str]]] = {}
        """The newest outcome by task and document, and the filters that have a record of it."""
        if keep and path.exists():
            sound_bytes, records = read_sound_lines(path)
            for record in records:
                self._note(record["task"], record["doc_id"], record["filter"], record["outcome"])
            os.truncate(path, sound_bytes)
        self._file = path.open("ab" if keep else "wb")

    def has(self, task: str, doc_id: int, filter_name: str, outcome: str) -> bool:
        """Whether that is the newest record of the sample and filter."""
        newest, filters = self._written.get((task, doc_id), ("", set()))
        return newest == outcome and filter_name in filters

    def append(self, records: Iterable[SampleRecord]) -> None:
        for record in records:
            if not self.has(record.task, record.doc_id, record.filter, record.outcome):
                self._note(record.task, record.doc_id, record.filter, record.outcome)
                self._file.write(hide_in_json(record.to_json(), self._secrets).encode() + b"\n")
        self._file.flush()

    def read(self) -> Iterator[SampleRecord]:
        """All records so far without those that a later one made void."""
        with self.path.open("rb") as file:
            yield from valid_records(SampleRecord.from_json(line.decode()) for line in file)

    def _note(self, task: str, doc_id: int, filter_name: str, outcome: str) -> None:
        newest, filters = self._written.get((task, doc_id), ("", set()))
        if newest != outcome:
            self._written[task, doc_id] = (outcome, {filter_name})
        else:
            filters.add(filter_name)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
