"""The file of scored samples tells where each valid record is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.engine.run.sample_file import SampleFile

KEY = "sk-0123456789abcdef"


def ok(task: str, doc_id: int, name: str = "none") -> SampleRecord:
    return SampleRecord(task, doc_id, name, "ok", prompt="é\u2028", responses=("a\nb",), scores={"acc": doc_id})


def left_out(task: str, doc_id: int) -> SampleRecord:
    return SampleRecord(task, doc_id, "", "budget_exceeded", error="no tokens")


def read(samples: SampleFile) -> dict[str, list[SampleRecord]]:
    return {task: list(records) for task, records in samples.by_task().items()}


def test_records_come_by_task_and_document_and_filter(tmp_path: Path) -> None:
    with SampleFile(tmp_path / "samples.jsonl", keep=False, secrets=[KEY]) as samples:
        samples.append([ok("two", 7), ok("one", 10), ok("one", 9, "b"), ok("one", 9, "a")])
        samples.append([replace(ok("one", 2), prompt=f"the {KEY}"), ok("one", 10)])
        found = samples.by_task()
        assert list(found) == ["one", "two"]
        assert [(record.doc_id, record.filter) for record in found["one"]] == [
            (2, "none"),
            (9, "b"),
            (9, "a"),
            (10, "none"),
        ]
        assert list(found["two"]) == list(found["two"]) == [ok("two", 7)]  # as often as wanted
        assert KEY not in next(iter(found["one"])).prompt


@pytest.mark.parametrize("torn", [b'{"task": "one", "doc', b'{"task": "one"}\n{"task": "one", "doc_id": 1}\n', b"\0\n"])
def test_a_later_attempt_takes_them_up_and_makes_void_what_no_longer_holds(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "samples.jsonl"
    with SampleFile(path, keep=False) as samples:
        samples.append([left_out("one", 1), ok("one", 0)])
    with path.open("ab") as file:
        file.write(torn)
    with SampleFile(path, keep=True) as samples:
        assert read(samples) == {"one": [ok("one", 0), left_out("one", 1)]}
        samples.append([ok("one", 1, "b"), ok("one", 1, "a"), ok("one", 0)])
        expected = {"one": [ok("one", 0), ok("one", 1, "b"), ok("one", 1, "a")]}
        assert read(samples) == expected
    with SampleFile(path, keep=True) as samples:
        assert read(samples) == expected
    assert path.read_bytes().count(b"\n") == 4
    with SampleFile(path, keep=False) as samples:
        assert read(samples) == {}
