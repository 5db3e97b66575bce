"""``samples.jsonl``: one line per sample and filter, appended as samples are scored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.engine.run.log import read_sound_lines

_LEFT_OUT = "budget_exceeded"


class SampleFile:
    """Appends each record once, also when an evaluation is taken up again after a crash.

    Only a sample that an attempt with a smaller budget left out (``budget_exceeded``) has a further record once it was
    answered.

    The file only ever grows, so a reader's position stays good. What it holds follows from the run log, so it is
    flushed and not forced to disk.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        """Takes up the file of an earlier attempt, torn end cut off; without ``keep`` it is begun anew."""
        self.path = path
        self._written: dict[tuple[str, int, str], str] = {}
        """Newest outcome by task, document and filter."""
        if keep and path.exists():
            sound_bytes, records = read_sound_lines(path)
            self._written = {
                (record["task"], record["doc_id"], record["filter"]): record["outcome"] for record in records
            }
            os.truncate(path, sound_bytes)
        self._file = path.open("ab" if keep else "wb")

    def has(self, task: str, doc_id: int, filter_name: str) -> bool:
        return (task, doc_id, filter_name) in self._written

    def append(self, records: Iterable[SampleRecord]) -> None:
        for record in records:
            key = (record.task, record.doc_id, record.filter)
            if self._written.get(key) in (None, _LEFT_OUT) and self._written.get(key) != record.outcome:
                self._written[key] = record.outcome
                self._file.write(record.to_json().encode() + b"\n")
        self._file.flush()

    def read(self) -> Iterator[SampleRecord]:
        """All records so far, in the order in which they were written, without those that a later one made void."""
        answered = {(task, doc_id) for (task, doc_id, _), outcome in self._written.items() if outcome != _LEFT_OUT}
        with self.path.open("rb") as file:
            for line in file:
                record = SampleRecord.from_json(line.decode())
                if record.outcome != _LEFT_OUT or (record.task, record.doc_id) not in answered:
                    yield record

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
