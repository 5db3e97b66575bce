"""A job's samples as lists, tables and files; the same of both clients."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from lmms_eval_grpc import JobNotFound
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import Break, Servicer, details


@pytest.fixture
def job(servicer: Servicer) -> str:
    """Seven samples of two tasks, whose scores differ in kind."""
    servicer.add_job()
    for number in range(5):
        record = job_pb2.SampleRecord(task="digits", doc_id=number, scores={"acc": number / 4}, responses=["ä", "b"])
        servicer.samples.append(record)
    for answer in ("yes", ["no", "maybe"]):
        scores = json.dumps({"acc": 1, "verdict": answer})
        servicer.samples.append(job_pb2.SampleRecord(task="judged", doc_id=9, scores_json=scores, error="e"))
    return "job-1"


def test_a_list_is_what_iterating_yields(client: Any, job: str) -> None:
    samples = client.samples(job)
    assert samples.to_list() == list(samples) == list(client.iter_samples(job))
    assert len(client.samples(job, task="judged").to_list()) == 2


def test_lines_of_json(client: Any, job: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text("of an earlier run\n")
    assert client.samples(job).to_jsonl(path) == 7
    assert [json.loads(line) for line in path.read_text().splitlines()] == client.samples(job).to_list()
    assert "ä" in path.read_text()


def test_a_file_is_left_as_it_is_when_nothing_can_be_had(
    client: Any, servicer: Servicer, job: str, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    client.samples(job).to_jsonl(path)
    before = path.read_text()
    servicer.breaks["StreamSamples"] = [Break(grpc.StatusCode.NOT_FOUND, "no such job", details("JOB_NOT_FOUND"))]
    with pytest.raises(JobNotFound):
        client.samples("no-such-job").to_jsonl(path)
    assert path.read_text() == before


def test_a_data_frame(client: Any, job: str) -> None:
    pytest.importorskip("pandas")
    frame = client.samples(job).to_pandas()
    assert list(frame["doc_id"]) == [0, 1, 2, 3, 4, 9, 9]
    assert list(frame["scores.acc"]) == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert frame["scores.acc"].dtype.kind == "f"
    assert list(frame["scores.verdict"][5:]) == ['"yes"', '["no", "maybe"]']
    assert frame["scores.verdict"][:5].isna().all()
    assert math.isclose(frame.groupby("task")["scores.acc"].mean()["digits"], 0.5)


def test_a_dataset(client: Any, job: str) -> None:
    pytest.importorskip("datasets")
    dataset = client.samples(job).to_dataset()
    assert dataset[0]["responses"] == ["ä", "b"]
    assert dataset["scores.acc"][:] == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert dataset[0]["scores.verdict"] is None
    assert (dataset[0]["error"], dataset[6]["error"]) == (None, "e")


def test_no_samples_are_an_empty_table_with_its_columns(client: Any, servicer: Servicer) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("datasets")
    servicer.add_job()
    samples = client.samples("job-1")
    assert list(samples.to_pandas().columns) == samples.to_dataset().column_names
    assert samples.to_dataset().features["doc_id"].dtype == "int64"
    assert (samples.to_list(), len(samples.to_pandas())) == ([], 0)


@pytest.mark.parametrize("package", ["pandas", "datasets"])
def test_a_package_that_is_missing_is_named(
    client: Any, job: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install {package}; to_list\(\) and to_jsonl"):
        client.samples(job).to_pandas() if package == "pandas" else client.samples(job).to_dataset()
