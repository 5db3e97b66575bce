"""The run log: every answer of an evaluation, on disk before anything is made of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lmms_eval_grpc.engine.models.protocol import GenerationResponse
from lmms_eval_grpc.engine.record.redact import redact

FORMAT_VERSION = 1

_LOG = logging.getLogger(__name__)

_SPECIAL = ("log_probability", "is_greedy", "rounds", "reasoning_tokens", "cached_input_tokens")
"""Fields of a response that most have not."""


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """Which question an answer is to. ``task`` is the task's identity, so a changed task has other questions."""

    task: str
    doc_id: int
    repeat: int
    """Which of the document's requests: a repeat, or a choice."""


def digest_header(header: Mapping[str, Any]) -> str:
    """SHA-256 of everything that answers depend on; two logs with equal digests may share answers."""
    return hashlib.sha256(json.dumps(header, sort_keys=True, default=str).encode()).hexdigest()


class RunLog:
    """An append-only JSON-lines file, one line per answered sample, each batch forced to disk as it is done.

    The first line names what the answers depend on. A log that was left by a crash is taken up again: a torn last line
    is cut off, and its answers need not be generated again. A log with another first line is put aside
    (``run_log.jsonl.1``, ``.2``, …) and a new one begun. Not for several processes at once.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._answers: dict[AnswerKey, GenerationResponse] = {}
        self._finished: set[str] = set()
        digest = digest_header(header)
        self.taken_up = self._take_up(digest)
        """Whether this goes on with the log of an earlier attempt."""
        if not self.taken_up:
            if path.exists():
                path.rename(_free_name(path))
            self._append([{"kind": "header", "version": FORMAT_VERSION, "digest": digest, "header": redact(header)}])
        self._file: BinaryIO = path.open("ab")
        _sync_folder(path.parent)

    @property
    def answers(self) -> Mapping[AnswerKey, GenerationResponse]:
        """The newest answer to every question that earlier attempts have answered, failed ones (``error`` set)
        included. This attempt's own are on disk only: there may be many, and long."""
        return self._answers

    @property
    def generated_tokens(self) -> int:
        """Output tokens of all these answers that the model itself gave."""
        return sum(response.output_tokens for response in self._answers.values() if not response.cached)

    def is_finished(self, task_identity: str) -> bool:
        """Whether the task was finished by an earlier attempt: its scores were told, so its failures are final."""
        return task_identity in self._finished

    def record_answers(self, answers: Iterable[tuple[AnswerKey, GenerationResponse]], task: str) -> None:
        """Appends a batch and returns when it is on disk. ``task`` is the task's name, for whoever reads the file."""
        lines = []
        for key, response in answers:
            line = {"kind": "answer", "identity": key.task, "task": task, "doc_id": key.doc_id, "repeat": key.repeat}
            line |= {"input_tokens": response.input_tokens, "output_tokens": response.output_tokens}
            line |= {"text": response.text} if response.error is None else {"error": response.error}
            line |= {name: value for name in _SPECIAL if (value := getattr(response, name)) is not None}
            line |= {"cached": True} if response.cached else {}
            lines.append(line)
        self._write(lines)

    def record_finished(self, task_identity: str, task: str) -> None:
        """Notes that the task's score was told to the reporter."""
        if task_identity not in self._finished:
            self._finished.add(task_identity)
            self._write([{"kind": "finished", "identity": task_identity, "task": task}])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take_up(self, digest: str) -> bool:
        """Reads a log that is there and cuts off its torn end; False: there is none, or it is of something else."""
        if not self.path.exists():
            return False
        sound_bytes, lines = read_sound_lines(self.path)
        header = next(lines, None)
        if header is None or header.get("kind") != "header":
            return False
        if header.get("version") != FORMAT_VERSION or header.get("digest") != digest:
            return False
        for line in lines:
            try:
                self._take(line)
            except (LookupError, TypeError):
                _LOG.warning("%s: left out a line that is no answer; its question is asked again", self.path)
        os.truncate(self.path, sound_bytes)
        return True

    def _take(self, line: Mapping[str, Any]) -> None:
        """Raises LookupError or TypeError for a line that nobody has written so."""
        if line["kind"] == "finished":
            self._finished.add(line["identity"])
        elif line["kind"] == "answer":
            key = AnswerKey(line["identity"], line["doc_id"], line["repeat"])
            rounds = line.get("rounds")
            counts = (key.doc_id, key.repeat, line["input_tokens"], line["output_tokens"])
            if not isinstance(key.task, str) or not all(isinstance(count, int) for count in counts):
                raise TypeError
            self._answers[key] = GenerationResponse(
                line.get("text", ""),
                line["input_tokens"],
                line["output_tokens"],
                line.get("error"),
                line.get("log_probability"),
                line.get("is_greedy"),
                None if rounds is None else tuple(rounds),
                line.get("cached", False),
                line.get("reasoning_tokens"),
                line.get("cached_input_tokens"),
            )

    def _append(self, lines: list[dict[str, Any]]) -> None:
        with self.path.open("ab") as file:
            _write_lines(file, lines)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        _write_lines(self._file, lines)


def read_sound_lines(path: Path) -> tuple[int, Iterator[dict[str, Any]]]:
    """Length in bytes of the file's sound beginning, and the JSON objects in it.

    A crash can tear the last line, and with it everything after the first line that is not a whole JSON object.
    """
    sound, records = 0, []
    with path.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            try:
                record = json.loads(raw)
            except (
                ValueError,
                RecursionError,
            ):  # a line of zeros, say, where the file grew but its data never reached the disk
                break
            if not isinstance(record, dict):
                break
            records.append(record)
            sound += len(raw)
    return sound, iter(records)


def _write_lines(file: BinaryIO, lines: list[dict[str, Any]]) -> None:
    file.write(b"".join(json.dumps(line, ensure_ascii=True).encode() + b"\n" for line in lines))
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a new or renamed file's name as durable as its content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate
