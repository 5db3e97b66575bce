"""What an evaluation leaves on disk."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError, MetricScore, TaskScore
from lmms_eval_grpc.engine.judge.usage import USAGE
from lmms_eval_grpc.engine.record.atomic import write_text
from lmms_eval_grpc.engine.record.manifest import build_manifest
from lmms_eval_grpc.engine.record.plain_json import dump_document, dump_line
from lmms_eval_grpc.engine.record.publication import writing_to
from lmms_eval_grpc.engine.record.redact import REDACTED, redact, secret_values
from lmms_eval_grpc.engine.record.results import LMMS_EVAL_KEYS, WrittenResults, model_folder, write_results
from lmms_eval_grpc.engine.record.samples import SampleRecord, to_lmms_eval_sample
from lmms_eval_grpc.engine.tasks.load import load_tasks
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]

STARTED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def test_values_of_every_kind_become_plain_json() -> None:
    @dataclass
    class Point:
        x: int

    value = {
        "numpy": [numpy.float32(0.5), numpy.int64(3), numpy.bool_(True), numpy.array([[1, 2]])],
        "torch": torch.tensor([1.5]),
        "nan": [math.nan, math.inf, numpy.float64("nan")],
        "set": {"b", "a"},
        "tuple": (1, (2,)),
        "bytes": b"abc",
        "image": Image.new("RGB", (3, 4)),
        "path": Path("a/b"),
        "time": STARTED,
        "point": Point(1),
        "function": math.sin,
        3: {None: 1},
        "odd": "\ud800",
        "other": 2 + 1j,
    }
    assert json.loads(dump_line(value)) == {
        "numpy": [0.5, 3, True, [[1, 2]]],
        "torch": [1.5],
        "nan": [None, None, None],
        "set": ["a", "b"],
        "tuple": [1, [2]],
        "bytes": "<3 bytes>",
        "image": "<RGB image of 3 x 4>",
        "path": "a/b",
        "time": "2026-03-04T05:06:07+00:00",
        "point": {"x": 1},
        "function": "sin",
        "3": {"null": 1},
        "odd": "?",
        "other": "(2+1j)",
    }


def test_a_value_that_contains_itself_ends() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    assert json.loads(dump_document(value))


def test_a_line_is_one_line() -> None:
    assert "\n" not in dump_line({"text": "two\nlines\u2028more"})


RECORD = SampleRecord(
    task="toy",
    doc_id=3,
    filter="none",
    outcome="ok",
    prompt="q?",
    target="a",
    responses=(" A ",),
    filtered_responses=("A",),
    scores={"exact_match": numpy.float32(1.0), "pair": (1, 2), "bad": math.nan},
    input_tokens=7,
    output_tokens=2,
    reasoning_tokens=1,
    doc_hash="ab",
)


def test_a_sample_record_survives_its_line() -> None:
    line = RECORD.to_json()
    assert set(json.loads(line)) == {
        "task", "doc_id", "filter", "outcome", "prompt", "target", "responses", "filtered_responses", "scores",
        "input_tokens", "output_tokens", "reasoning_tokens", "error", "doc_hash", "repeats",
    }  # fmt: skip
    again = SampleRecord.from_json(line)
    assert again.responses == (" A ",)
    assert again.scores == {"exact_match": 1.0, "pair": [1, 2], "bad": None}
    assert SampleRecord.from_json(again.to_json()) == again


def test_a_later_versions_key_is_ignored_and_a_torn_line_refused() -> None:
    values = json.loads(RECORD.to_json()) | {"new": 1}
    assert SampleRecord.from_json(json.dumps(values)).doc_id == 3
    for line in (RECORD.to_json()[:-5], "[]", "{}", '{"outcome": "ok"}', '{"outcome": "odd"}'):
        with pytest.raises(ValueError):
            SampleRecord.from_json(line)


def test_a_sample_in_lmms_evals_layout() -> None:
    sample = to_lmms_eval_sample(RECORD)
    assert sample["doc_id"] == 3
    assert sample["input"] == "q?"
    assert sample["target"] == "a"
    assert sample["resps"] == [" A "]
    assert sample["filtered_resps"] == "A"
    assert sample["token_counts"] == [{"input_tokens": 7, "output_tokens": 2, "reasoning_tokens": 1}]
    assert sample["filter"] == "none"
    assert sample["pair"] == (1, 2)
    assert "error" not in sample
    same = SampleRecord("t", 1, "none", "ok", responses=("x",), filtered_responses=("x",), scores={"target": 1})
    assert "resps" not in to_lmms_eval_sample(same)
    assert to_lmms_eval_sample(same)["metric_target"] == 1
    assert to_lmms_eval_sample(same)["target"] == ""


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f.txt"
    write_text(path, ["old"])

    def lines() -> Any:
        yield "half"
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        write_text(path, lines())
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_a_written_file_as_the_mask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = write_text(tmp_path / "f", ["x"])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_secrets_are_taken_out() -> None:
    given = {
        "api_key": "sk-1",
        "my_token": "t",
        "token": True,
        "max_new_tokens": 5,
        "note": "uses hf_abcdefghijklmn and access_token=xyz,x=1",
        "list": [{"password": "p"}],
        "extra_headers": {"Authorization": "Bearer abc", "X-Api-Key": "k", "X-Team": "vision"},
        "base_url": "https://user:pa55@host/v1",
        "mail": "user@host",
    }
    assert redact(given) == {
        "api_key": REDACTED,
        "my_token": REDACTED,
        "token": True,
        "max_new_tokens": 5,
        "note": f"uses {REDACTED} and access_token={REDACTED},x=1",
        "list": [{"password": REDACTED}],
        "extra_headers": {"Authorization": REDACTED, "X-Api-Key": REDACTED, "X-Team": "vision"},
        "base_url": f"https://{REDACTED}@host/v1",
        "mail": "user@host",
    }


def test_all_texts_under_a_secrets_key_are_secret() -> None:
    given = {
        "api_keys": ["first-key", "second-key"],
        "credentials": {"user": "somebody", "parts": ["long-secret", 7]},
        "extra_headers": {"Authorization": ["Bearer in-a-list"]},
        "stop_token": ["<end>"],
    }
    assert redact(given) == {
        "api_keys": [REDACTED, REDACTED],
        "credentials": {"user": REDACTED, "parts": [REDACTED, 7]},
        "extra_headers": {"Authorization": [REDACTED]},
        "stop_token": ["<end>"],
    }
    assert {"first-key", "second-key", "somebody", "long-secret", "in-a-list"} <= set(secret_values(given))


@pytest.mark.parametrize(
    ("model_args", "folder"),
    [
        ({"pretrained": "org/model"}, "org__model"),
        ({"pretrained": "/runs/exp:1/step_100/"}, "exp__1__step_100"),
        ({"pretrained": "../ckpt"}, "ckpt"),
        ({"pretrained": ".."}, "qwen"),
        ({"model": "a", "pretrained": "b"}, "b"),
        ({}, "qwen"),
    ],
)
def test_results_lie_in_a_folder_named_after_the_model(model_args: dict[str, str], folder: str) -> None:
    assert model_folder(EvaluationConfig(model="qwen", tasks=("t",), model_args=model_args)) == folder


@pytest.fixture
def written(tmp_path: Path) -> WrittenResults:
    USAGE.reset()  # what judges of other tests cost
    return write(tmp_path)


def write(
    folder: Path, api_key: str = "sk", second: Iterable[SampleRecord] | None = None, **changes: Any
) -> WrittenResults:
    for name in ("one", "two"):
        write_task(folder / "tasks", "metadata: {version: 2}", name=name)
    config = EvaluationConfig(
        model="qwen",
        tasks=("one", "two"),
        model_args={"pretrained": "org/model", "api_key": api_key},
        include_paths=(folder / "tasks",),
        system_instruction="Be brief.",
    )
    tasks = load_tasks(config)
    metric = MetricScore("exact_match", "none", 0.5, 0.1, 0.3, 0.7, "t", True, 4, {"stderr": 0.1, "stderr_clt": 0.1})
    custom = MetricScore("odd", "none", math.nan)
    scores = [TaskScore("one", "2", (metric, custom), 5, 4, 1, 2.0), TaskScore("two", "2", (), 5, 0, 5)]
    first = SampleRecord("one", 0, "none", "ok", "q", "a", ("a",), ("a",), {"exact_match": 1.0}, 10, 3, doc_hash="h")
    records = [replace(first, doc_id=doc_id, **changes) for doc_id in (0, 1, 2)]
    records.append(SampleRecord("one", 3, "", "model_error", error="no answer"))
    return write_results(
        config,
        tasks,
        scores,
        {"one": records} | ({} if second is None else {"two": second}),
        build_manifest(config, tasks, {"backend": "fake"}, device={"type": "cpu"}, processor_backend="pil"),
        folder / "out",
        started=STARTED,
        finished=STARTED + timedelta(seconds=90),
        batch_sizes=[8, 8, 4],
        throughput={"samples_per_second": 3.5},
    )


class UnwritableRecords:
    """The second time that they are gone through, which is to write them, the disk is full."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[SampleRecord]:
        self.passes += 1
        if self.passes == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return iter(())


def test_results_that_cannot_be_written_leave_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, second=UnwritableRecords())
    (folder,) = (tmp_path / "out").iterdir()
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.write_text("in the way")
    there = r"cannot be written to .*model': File exists"
    with pytest.raises(EvaluationError, match=there) as raised, writing_to(tmp_path / "out"):
        write(tmp_path)
    assert raised.value.reason == "OUTPUT_NOT_WRITABLE"
    with pytest.raises(FileExistsError), writing_to(None):  # the folder is of nobody's naming
        write(tmp_path)


def test_a_secret_is_in_no_file_of_the_results_whoever_said_it(tmp_path: Path) -> None:
    key = 'my-"own"-key-é'
    write(tmp_path, api_key=key, responses=(f"the key is {key}",), filtered_responses=(key,), error=key)
    files = [path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(REDACTED in text for text in files)
    for text in files:
        assert 'own\\"-key' not in text
        json.loads(text.splitlines()[0] if text.startswith('{"') else text)


@pytest.mark.parametrize("key", ["000000", "target", "nosuch-key"])
def test_a_secret_like_a_number_or_a_key_leaves_the_samples_whole(tmp_path: Path, key: str) -> None:
    said = f"{key} or\n{key[1:]}"
    scores = {"exact_match": 0.300000004, "big": 1000000}
    path = write(tmp_path, api_key=key, responses=(said,), filtered_responses=(key,), scores=scores).samples_paths[0]
    sample = json.loads(path.read_text().splitlines()[0])
    assert sample["resps"] == [f"{REDACTED} or\n{key[1:]}"]
    assert (sample["filtered_resps"], sample["target"]) == (REDACTED, "a")
    assert (sample["exact_match"], sample["big"]) == (0.300000004, 1000000)


def test_the_results_document_has_lmms_evals_keys(written: WrittenResults) -> None:
    document, path, _ = written
    assert json.loads(path.read_text()) == document
    own = ["lmms_eval_grpc_version", "confidence_intervals", "sample_counts", "manifest"]
    assert list(document) == [key for key in LMMS_EVAL_KEYS if key != "groups"] + own
    assert document["results"]["one"] == {
        "alias": "one",
        "exact_match,none": 0.5,
        "exact_match_stderr,none": 0.1,
        "exact_match_stderr_clt,none": 0.1,
        "exact_match_stderr_clustered,none": "N/A",
        "odd,none": None,
        "odd_stderr,none": "N/A",
        "odd_stderr_clt,none": "N/A",
        "odd_stderr_clustered,none": "N/A",
    }
    assert document["versions"] == {"one": "2", "two": "2"}
    assert document["n-samples"]["one"] == {"original": 6, "effective": 5}
    assert document["config"]["model_args"] == f"pretrained=org/model,api_key={REDACTED}"
    assert document["config"]["batch_size"] == "auto"
    assert document["config"]["batch_sizes"] == [4, 8]
    assert document["config"]["resolved_cli_args"]["system_instruction"] == "Be brief."
    assert document["total_evaluation_time_seconds"] == "90.0"
    assert "sk" not in json.loads(path.read_text())["config"]["resolved_cli_args"]["model_args"].values()


def test_the_results_document_adds_intervals_counts_and_the_manifest(written: WrittenResults) -> None:
    document = written.document
    assert document["confidence_intervals"]["one"] == {
        "exact_match,none": {
            "lower": 0.3,
            "upper": 0.7,
            "level": 0.95,
            "method": "t",
            "standard_error": 0.1,
            "samples": 4,
        }
    }
    assert document["sample_counts"]["two"] == {"asked": 5, "scored": 0, "errored": 5, "skipped": 0}
    manifest = document["manifest"]
    assert manifest["packages"]["numpy"] == numpy.__version__
    assert manifest["seeds"] == {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
    assert manifest["processor_backend"] == "pil"
    assert manifest["batch_policy"]["batch_size"] == "auto"
    assert manifest["code"].keys() == {"commit", "branch"}
    task = manifest["tasks"]["one"]
    for key in ("identity", "config_digest", "items_digest"):
        assert len(task[key]) == 64
    assert (task["items"], task["documents"], task["function_sources"]) == (6, 6, {})
    assert manifest["tasks"]["one"]["prompt"]["system_message"] == ["system_instruction"]


def test_usage_and_efficiency_count_each_document_once(written: WrittenResults) -> None:
    document = written.document
    assert document["usage"]["total"] == {
        "input_tokens": 30, "output_tokens": 9, "reasoning_tokens": 0, "total_tokens": 39, "n_api_calls": 3,
    }  # fmt: skip
    overall = document["efficiency"]["overall"]
    assert (overall["docs"], overall["docs_with_token_counts"], overall["total_correct_score"]) == (4, 3, 3.0)
    assert overall["tokens_per_correct_answer"] == 3.0


def test_samples_are_written_per_task_in_document_order(written: WrittenResults) -> None:
    _, results_path, (samples_path,) = written
    assert results_path.name == "20260304_050607_results.json"
    assert results_path.parent.name == "org__model"
    assert samples_path == results_path.with_name("20260304_050607_samples_one.jsonl")
    lines = [json.loads(line) for line in samples_path.read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["exact_match"] == 1.0
    assert (lines[3]["outcome"], lines[3]["error"]) == ("model_error", "no answer")


def test_a_second_evaluation_in_the_same_second_overwrites_nothing(tmp_path: Path) -> None:
    first = write(tmp_path)
    second = write(tmp_path)
    assert second.results_path.name == "20260304_050607-2_results.json"
    assert first.results_path.exists()
    assert {path.name for path in (*first.samples_paths, *second.samples_paths)} == {
        "20260304_050607_samples_one.jsonl",
        "20260304_050607-2_samples_one.jsonl",
    }


def test_a_name_that_another_process_is_writing_under_is_taken(tmp_path: Path) -> None:
    first = write(tmp_path)
    first.results_path.with_name(".20260304_050607-2.writing").touch()
    second = write(tmp_path)
    assert second.results_path.name == "20260304_050607-3_results.json"
    assert [path.name for path in second.results_path.parent.glob(".*")] == [".20260304_050607-2.writing"]


def test_the_task_hash_depends_on_the_documents_and_not_on_the_answers(tmp_path: Path) -> None:
    def task_hash(folder: str, **changes: Any) -> str:
        (tmp_path / folder).mkdir()
        return str(write(tmp_path / folder, **changes).document["task_hashes"]["one"])

    same = task_hash("1")
    assert task_hash("2", responses=("other",)) == same
    assert task_hash("3", doc_hash="other") != same


def test_the_manifest_tells_which_documents_ran_and_from_which_sources(tmp_path: Path) -> None:
    keys = "process_results: !function utils.process\nmetric_list: [{metric: m, aggregation: mean}]"
    write_task(tmp_path / "tasks", keys, utils="def process(doc, results):\n    return {'m': 1}\n")
    config = EvaluationConfig(model="qwen", tasks=("toy",), include_paths=(tmp_path / "tasks",), offset=1)
    tasks = load_tasks(config)

    def entry(**changes: Any) -> dict[str, Any]:
        manifest: dict[str, Any] = build_manifest(config, tasks, {}, **changes)["tasks"]["toy"]
        return manifest

    assert entry()["items_digest"] == entry(doc_ids={"toy": range(1, 6)})["items_digest"]
    assert entry()["items_digest"] != entry(doc_ids={"toy": [5, 4, 3, 2, 1]})["items_digest"]
    (source,) = entry()["function_sources"]
    assert source == "tasks/utils.py"
    manifest = build_manifest(config, tasks, {"api_key": "sk-1"})
    assert manifest["decode_backend"] == "pyav"
    assert "sk-1" not in json.dumps(manifest)
