"""Reading sample records that a worker is appending."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_eval_grpc.jobs.errors import InvalidRequest, StoreUnavailable
from lmms_eval_grpc.store.samples import FileSampleStore

STORE = FileSampleStore()


def line(doc_id: int, text: str = "") -> bytes:
    return json.dumps({"doc_id": doc_id, "text": text}, ensure_ascii=False).encode() + b"\n"


def write(folder: Path, content: bytes) -> None:
    with (folder / "samples.jsonl").open("ab") as file:
        file.write(content)


async def test_nothing_is_there_before_the_first_record(tmp_path: Path) -> None:
    for folder in (tmp_path / "not-made-yet", tmp_path):
        batch = await STORE.read(folder, 0, 1000)
        assert (batch.records, batch.next_cursor) == ((), 0)


async def test_batches_follow_each_other_without_gap_or_repetition(tmp_path: Path) -> None:
    write(tmp_path, b"".join(line(number, "é" * number) for number in range(50)))
    seen: list[object] = []
    cursor = 0
    while (batch := await STORE.read(tmp_path, cursor, 300)).records:
        assert batch.next_cursor - cursor <= 300
        seen.extend(record["doc_id"] for record in batch.records)
        cursor = batch.next_cursor
    assert seen == list(range(50))
    assert cursor == (tmp_path / "samples.jsonl").stat().st_size
    write(tmp_path, line(50))
    assert [record["doc_id"] for record in (await STORE.read(tmp_path, cursor, 300)).records] == [50]


async def test_a_record_larger_than_a_batch_comes_alone(tmp_path: Path) -> None:
    write(tmp_path, line(0, "x" * 3_000_000) + line(1) + line(2))
    first = await STORE.read(tmp_path, 0, 1000)
    assert [record["doc_id"] for record in first.records] == [0]
    second = await STORE.read(tmp_path, first.next_cursor, 1000)
    assert [record["doc_id"] for record in second.records] == [1, 2]


@pytest.mark.parametrize("torn", [1, 10, len(line(1)) - 1])
async def test_a_line_without_its_end_is_not_there_yet(tmp_path: Path, torn: int) -> None:
    write(tmp_path, line(0) + line(1)[:torn])
    first = await STORE.read(tmp_path, 0, 1000)
    assert [record["doc_id"] for record in first.records] == [0]
    assert (await STORE.read(tmp_path, first.next_cursor, 1000)).records == ()
    write(tmp_path, line(1)[torn:])
    assert [record["doc_id"] for record in (await STORE.read(tmp_path, first.next_cursor, 1000)).records] == [1]


async def test_a_large_line_without_its_end_is_not_there_yet(tmp_path: Path) -> None:
    write(tmp_path, line(0, "x" * 5000)[:-1])
    batch = await STORE.read(tmp_path, 0, 1000)
    assert (batch.records, batch.next_cursor) == ((), 0)


async def test_a_line_that_is_no_record_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, line(0) + b'{"doc_id": 1, "te\n' + b"[1]\n" + line(2))
    batch = await STORE.read(tmp_path, 0, 1000)
    assert [record["doc_id"] for record in batch.records] == [0, 2]
    assert batch.next_cursor == (tmp_path / "samples.jsonl").stat().st_size


async def test_records_behind_many_damaged_lines_are_found(tmp_path: Path) -> None:
    write(tmp_path, b"damaged\n" * 1000 + line(7))
    batch = await STORE.read(tmp_path, 0, 100)
    assert [record["doc_id"] for record in batch.records] == [7]


@pytest.mark.parametrize("cursor", [-1, 5, 10_000])
async def test_a_cursor_that_is_not_the_end_of_a_record_is_refused(tmp_path: Path, cursor: int) -> None:
    write(tmp_path, line(0) + line(1))
    with pytest.raises(InvalidRequest, match=f"after_cursor: {cursor} is not a cursor"):
        await STORE.read(tmp_path, cursor, 1000)


async def test_a_cursor_into_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="after_cursor"):
        await STORE.read(tmp_path, 7, 1000)


async def test_a_file_that_cannot_be_read_is_a_store_failure(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await STORE.read(tmp_path, 0, 1000)
