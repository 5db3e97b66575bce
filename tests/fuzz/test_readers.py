"""Whatever bytes they get, readers of files, frames, rows and arguments either read them or say what is wrong."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.engine.tasks.config import default_values
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.events import StateChange
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.server.config import settings as server_settings
from lmms_eval_grpc.worker.frames import encode_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import WorkerEvent
from tests.fuzz.targets import READERS, kept
from tests.fuzz.values import STRINGS
from tests.jobs.examples import progress, result, submitted, task_result

TARGETS_OF_ATHERIS = ("frames", "records", "task_yaml", "argument_string", "page_token", "address")

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(STRINGS) | st.text(max_size=20)
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
_YAML = st.lists(
    st.sampled_from(
        (
            *(
                "task: a",
                "include: task.yaml",
                "group: g",
                "a: &a [1]",
                "b: *a",
                "c: &c {c: *c}",
                "- x",
                "? [a]",
                "{",
                "[",
            ),
            *(
                "!function utils.x",
                "x: !function",
                "x: !!int ''",
                "x: !!bool maybe",
                "x: !!timestamp y",
                "x: !!binary '?'",
            ),
            *(
                "x: !!float '1:99'",
                "x: 2001-99-99",
                "x: !!python/object:os.system {}",
                "<<: 1",
                "<<: [*a]",
                "x: !!set {a}",
            ),
            *("task: [a, {task: b}]", "tag: 1", "class: x", "repeats: 0", "num_fewshot: x", "generation_kwargs: [1]"),
            *(
                "generation_kwargs: {until: 1}",
                "generation_kwargs: {temperature: x}",
                "metric_list: {}",
                "\0",
                "\t",
                "---",
            ),
            *("dataset_path: ./x", "dataset_path: json", "dataset_kwargs: {data_files: {a: '*'}}", "x: .nan", "..."),
            *(
                "dataset_kwargs: {data_files: ''}",
                "dataset_kwargs: {data_files: /}",
                "port: 1",
                "host: [x]",
                "devices: 1",
            ),
        )
    )
    | st.text(max_size=20),
    max_size=8,
).map("\n".join)


def mapped(keys: list[str]) -> st.SearchStrategy[bytes]:
    """JSON, which is YAML too: mappings with keys that mean something."""
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=8), _JSON, max_size=6).map(_dump)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def changed(*values: Any) -> st.SearchStrategy[bytes]:
    """Good records with one value replaced."""
    plain = [json.loads(codec.encode(value)) for value in values]

    def change(drawn: tuple[dict[str, Any], int, Any]) -> bytes:
        good, place, value = drawn
        return _dump({**good, list(good)[place % len(good)]: value})

    return st.tuples(st.sampled_from(plain), st.integers(0, 50), _JSON).map(change)


def lines(record: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """JSON lines: good ones, ones with a value replaced, and others."""
    keys = st.sampled_from(list(record))
    line = st.just(record) | st.tuples(keys, _JSON).map(lambda pair: {**record, pair[0]: pair[1]}) | _JSON
    return st.lists(line.map(_dump) | st.binary(max_size=20), max_size=6).map(b"\n".join)


_MADE: dict[str, st.SearchStrategy[bytes]] = {
    "frames": st.lists(
        st.builds(WorkerEvent, progress_json=st.text()).map(encode_frame) | st.binary(max_size=12), max_size=5
    ).map(b"".join),
    "records": changed(
        *(submitted(1), task_result(), progress(1), result(), StateChange(None, JobState.QUEUED, 0)),
    ),
    "task_yaml": _YAML.map(str.encode) | mapped(list(default_values())),
    "server_yaml": _YAML.map(str.encode) | mapped([setting.name for setting in server_settings()]),
    "server_toml": st.lists(
        st.tuples(st.sampled_from([setting.name for setting in server_settings()]), _SCALARS).map(
            lambda pair: f"{pair[0]} = {json.dumps(pair[1])}"
        ),
        max_size=4,
    ).map(lambda found: "\n".join(found).encode()),
    "server_environment": st.lists(
        st.tuples(st.sampled_from([setting.name.upper() for setting in server_settings()]), st.text(max_size=12)).map(
            "=".join
        ),
        max_size=4,
    ).map(lambda found: "\n".join(found).encode()),
    "eval_yaml": _YAML.map(str.encode)
    | mapped(["model", "tasks", "model_args", "env", "seed", "limit", "reasoning_tags"]),
    "argument_string": st.text(alphabet="ab=,'\"{}[]\\ 1.-e", max_size=40).map(str.encode),
    "command_line": st.text(alphabet="0123456789.smhdkKgGiB={},x ", max_size=12).map(str.encode),
    "address": st.text(alphabet="htps:/unix[]@1270.%?# a", max_size=20).map(str.encode),
    "samples": lines(
        {"task": "t", "doc_id": 1, "outcome": "ok", "prompt": "p", "scores": {"m": 1}, "responses": ["r"]}
    ),
    "run_log": lines(
        {
            "kind": "answer",
            "identity": "i",
            "doc_id": 1,
            "repeat": 0,
            "input_tokens": 1,
            "output_tokens": 1,
            "text": "t",
        }
    ),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=250, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_reader_reads_or_says_what_is_wrong(name: str, data: st.DataObject) -> None:
    texts = st.sampled_from(STRINGS) | st.text()
    made = _MADE.get(name, texts.map(str.encode))
    READERS[name](data.draw(made | st.binary() | texts.map(lambda text: text.encode("utf-8", "replace"))))


@pytest.mark.parametrize(
    ("name", "file"), [pytest.param(name, file, id=f"{name}-{file.name}") for name in READERS for file in kept(name)]
)
def test_a_reader_reads_its_corpus_or_says_what_is_wrong(name: str, file: Path) -> None:
    READERS[name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS_OF_ATHERIS)
def test_a_reader_stands_inputs_that_reach_new_code(name: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed; pip install -e '.[fuzz]' brings it")
    words = [sys.executable, "-m", "tests.fuzz.coverage", name, "--seconds", "4"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "inputs" in done.stdout
