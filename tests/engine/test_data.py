"""Datasets: where they come from, how documents are read, how data are recognised again."""

from __future__ import annotations

import getpass
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data import folders
from lmms_eval_grpc.engine.data.digest import digest_value
from lmms_eval_grpc.engine.data.documents import Documents, dataset_fingerprint
from lmms_eval_grpc.engine.data.source import DatasetSource, open_split
from tests.support.task_files import QUESTIONS, datasets_cache, image

__all__ = ["datasets_cache"]


def source(path: str | Path | None, **kwargs: Any) -> DatasetSource:
    return DatasetSource("toy", None if path is None else str(path), kwargs=kwargs or None)


def pictures(*values: int) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_list([{"image": image(v), "label": v} for v in values], features=features)


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_files_of_each_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    getattr(datasets.Dataset.from_list(QUESTIONS), f"to_{kind}")(path)
    split = open_split(source(kind, data_files={"test": str(path)}), "test")
    assert split[2] == QUESTIONS[2]


def test_a_saved_dataset(tmp_path: Path) -> None:
    datasets.DatasetDict({"val": pictures(1, 2)}).save_to_disk(tmp_path / "saved")
    split = open_split(source(tmp_path / "saved", load_from_disk=True), "val")
    assert split[1]["image"].getpixel((0, 0)) == 2


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    pictures(7).to_parquet(tmp_path / "d" / "validation-00000.parquet")
    split = open_split(source(tmp_path / "d"), "validation")
    assert split[0]["image"].getpixel((0, 0)) == 7


def test_a_dataset_without_named_splits_is_refused(tmp_path: Path) -> None:
    pictures(1).save_to_disk(tmp_path / "saved")
    with pytest.raises(EvaluationError, match="no named splits") as raised:
        open_split(source(tmp_path / "saved", load_from_disk=True), "test")
    assert raised.value.reason == "DATASET_UNAVAILABLE"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"gone\.json.*exist on this machine") as raised:
        open_split(source("json", data_files={"test": str(tmp_path / "gone.json")}), "test")
    assert raised.value.reason == "DATASET_UNAVAILABLE"


def test_a_hub_dataset_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(EvaluationError) as raised:
        open_split(source("someone/some-benchmark"), "test")
    assert raised.value.reason == "DATASET_UNAVAILABLE"
    assert "'someone/some-benchmark'" in raised.value.message
    assert "HF_HOME" in raised.value.message
    assert "HF_TOKEN" in raised.value.message


@pytest.mark.parametrize("key", ["From_YouTube", "builder_script", "streaming"])
def test_kinds_of_data_that_are_not_read_yet_are_refused(key: str) -> None:
    with pytest.raises(EvaluationError, match=key) as raised:
        open_split(source("x/y", **{key: True}), "test")
    assert raised.value.reason == "UNSUPPORTED_TASK"


def test_documents_without_media_decode_nothing() -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "more": datasets.List(datasets.Image()),
            "label": datasets.Value("int64"),
        }
    )
    rows = [{"image": image(1), "more": [image(2), image(3)], "label": 4}]
    documents = Documents("toy", datasets.Dataset.from_list(rows, features=features))
    assert documents.without_media(0) == {"label": 4}
    full = documents.with_media(0)
    assert [picture.getpixel((0, 0)) for picture in (full["image"], *full["more"])] == [1, 2, 3]
    assert documents.columns == ("image", "more", "label")
    assert len(documents) == 1


def test_documents_are_the_rows_that_the_library_gives() -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "more": datasets.List(datasets.Image()),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "grid": datasets.Array2D(shape=(2, 2), dtype="int64"),
            "when": datasets.Value("timestamp[s]"),
            "turns": datasets.List({"who": datasets.Value("string"), "said": datasets.List(datasets.Value("string"))}),
        }
    )

    def row(number: int) -> dict[str, Any]:
        pictures = [image(number)] * (number % 3)
        turns = [{"who": f"{number}", "said": ["a", None]}] if number % 2 else []
        grid, when = [[number, 1], [2, 3]], None if number % 5 == 0 else datetime(2024, 1, 1 + number % 28)
        return {"image": image(number), "more": pictures, "label": number % 2, "grid": grid, "when": when} | {
            "turns": turns
        }

    parts = [
        datasets.Dataset.from_list([row(i) for i in range(start, start + 50)], features=features) for start in (0, 50)
    ]
    joined = datasets.concatenate_datasets(parts)
    order = [number * 37 % 100 for number in range(70)]
    for split in (joined, joined.select(order), joined.shuffle(seed=3), joined.with_format("numpy")):
        documents = Documents("toy", split)
        for number in [*range(0, len(split), 7), len(split) - 1]:
            wanted, found = split[number], documents.with_media(number)
            assert list(found) == list(wanted)
            assert digest_value(_comparable(found)) == digest_value(_comparable(wanted))
            plain = {name: value for name, value in wanted.items() if name not in ("image", "more")}
            assert digest_value(documents.without_media(number)) == digest_value(plain)
    with pytest.raises(IndexError):
        Documents("toy", joined).with_media(100)


def _comparable(value: Any) -> Any:
    """With pictures as bytes."""
    if isinstance(value, dict):
        return {name: _comparable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return value.tobytes() if hasattr(value, "getpixel") else value


def test_who_changes_a_document_changes_nobody_elses() -> None:
    documents = Documents("toy", datasets.Dataset.from_list([{"turns": [{"said": ["a"]}]}, {"turns": []}]))
    documents.with_media(0)["turns"][0]["said"].append("b")
    documents.without_media(0)["turns"].clear()
    assert documents.with_media(0) == documents.without_media(0) == {"turns": [{"said": ["a"]}]}


def test_a_picture_that_is_broken_leaves_the_documents_beside_it_whole() -> None:
    stored = [{"image": {"bytes": b"no picture" if i == 1 else _png(i), "path": None}} for i in range(3)]
    documents = Documents(
        "toy", datasets.Dataset.from_list(stored, features=datasets.Features({"image": datasets.Image()}))
    )
    with pytest.raises(OSError, match="cannot identify image file"):
        documents.with_media(1)
    assert [documents.with_media(i)["image"].getpixel((0, 0)) for i in (0, 2)] == [0, 2]


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    image(value).save(buffer, format="PNG")
    return buffer.getvalue()


def test_process_docs_runs_once_over_the_split() -> None:
    documents = Documents("toy", pictures(1, 2, 3), lambda split: split.filter(lambda doc: doc["label"] > 1))
    assert [documents.without_media(i)["label"] for i in range(len(documents))] == [2, 3]
    assert documents.with_media(0)["image"].getpixel((0, 0)) == 2


@pytest.mark.parametrize(
    ("process_docs", "message"),
    [
        (lambda split: split.no_such_method(), "process_docs failed: AttributeError"),
        (lambda split: list(split), "process_docs must return a datasets.Dataset, but returned list"),
    ],
)
def test_a_process_docs_that_fails_is_named(process_docs: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message) as raised:
        Documents("toy", pictures(1), process_docs)
    assert raised.value.reason == "TASK_LOAD_FAILED"


def test_audio_is_decoded_when_a_document_is_asked_for() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0.0, 0.5, -0.5, 0.25]), 16000, format="WAV", subtype="FLOAT")
    sounds = datasets.Dataset.from_list([{"sound": {"bytes": buffer.getvalue(), "path": "a.wav"}, "text": "hum"}])
    documents = Documents("toy", sounds.cast_column("sound", datasets.Audio()))
    assert documents.without_media(0) == {"text": "hum"}
    sound = documents.with_media(0)["sound"]
    assert sound["array"].tolist() == [0.0, 0.5, -0.5, 0.25]
    assert (sound["sampling_rate"], sound["path"]) == (16000, "a.wav")
    assert len(documents.digest(0)) == 64


def test_broken_audio_says_so() -> None:
    sounds = datasets.Dataset.from_list([{"sound": {"bytes": b"RIFF", "path": "a.wav"}}])
    documents = Documents("toy", sounds.cast_column("sound", datasets.Audio()))
    with pytest.raises(ValueError, match=r"audio 'a\.wav' cannot be decoded"):
        documents.with_media(0)


def test_videos_are_given_by_their_files() -> None:
    videos = datasets.Dataset.from_list([{"video": {"bytes": None, "path": "a.mp4"}, "clips": [{"path": "b.mp4"}]}])
    features = datasets.Features({"video": datasets.Video(), "clips": datasets.List(datasets.Video())})
    documents = Documents("toy", videos.cast(features))
    assert documents.with_media(0) == {"video": "a.mp4", "clips": ["b.mp4"]}
    assert documents.columns == ("video", "clips")


def test_digests_of_documents_follow_their_values_and_media() -> None:
    first, second = Documents("toy", pictures(1, 2)), Documents("toy", pictures(2, 1))
    assert first.digest(0) == second.digest(1) != first.digest(1)


def test_an_image_given_by_path_is_digested_by_its_content(tmp_path: Path) -> None:
    for name, value in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        image(value).save(tmp_path / name)
    a, b, c = (digest_value({"bytes": None, "path": str(tmp_path / f"{name}.png")}) for name in "abc")
    assert a == b != c
    assert digest_value({"bytes": None, "path": "gone.png"}) != digest_value({"bytes": None, "path": "lost.png"})


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_value({"a": 1, "b": [2.5, None]}) == digest_value({"b": [2.5, None], "a": 1})
    assert digest_value({"a": "1"}) != digest_value({"a": 1})


def test_the_fingerprint_of_local_files_is_that_of_their_content(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "d.json").write_text(json.dumps(QUESTIONS))
    shutil.copy(folders[0] / "d.json", folders[1] / "d.json")
    (folders[2] / "d.json").write_text(json.dumps(QUESTIONS[1:]))
    any_split = pictures(1)
    one, two, three = (dataset_fingerprint(any_split, None, {"test": [str(f / "d.json")]}) for f in folders)
    assert one == two != three
    assert dataset_fingerprint(any_split, folders[0], None) == one
    assert dataset_fingerprint(any_split, None, {"test": str(folders[0] / "*.json")}) == one


def test_the_fingerprint_of_a_large_file_follows_its_content_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmms_eval_grpc.engine.data.documents._MAX_HASHED_BYTES", 1 << 20)
    file = tmp_path / "d.bin"
    content = bytearray(3 << 20)
    seen = set()
    for place in (None, 0, 1 << 20, (3 << 20) - 1):
        if place is not None:
            content[place] += 1
        file.write_bytes(content)
        os.utime(file, (1, 1))  # as copies and archives do
        seen.add(dataset_fingerprint(None, file, None))
        assert dataset_fingerprint(None, file, None) in seen
    assert len(seen) == 4
    os.utime(file, (2, 2))
    assert dataset_fingerprint(None, file, None) not in seen


def test_the_fingerprint_of_other_data_is_the_librarys() -> None:
    split = pictures(1)
    assert dataset_fingerprint(split, None, None) == split._fingerprint


class _EmptyHub(http.server.BaseHTTPRequestHandler):
    """A hub without any dataset."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args: object) -> None: ...


@pytest.mark.parametrize("video", [False, True])
def test_public_data_need_no_token_although_the_task_says_true(tmp_path: Path, video: bool) -> None:
    """The library would refuse before it asks the hub; here the hub is asked, and says that it has no such dataset."""
    script = f"""
from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data.source import DatasetSource, open_split
kwargs = {{"token": True, **({{"video": True, "cache_dir": "clips"}} if {video} else {{}})}}
try:
    open_split(DatasetSource("toy", "somebody/nothing", None, kwargs), "test")
except EvaluationError as error:
    print(error.reason, error.message)
"""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _EmptyHub) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
        environment = {name: value for name, value in os.environ.items() if name not in offline}
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path)}
        try:
            done = subprocess.run(
                [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
            )
        finally:
            hub.shutdown()
            thread.join()
    assert done.stdout.startswith("DATASET_UNAVAILABLE")
    assert "Token is required" not in done.stdout
    assert "somebody/nothing" in done.stdout


def test_a_datasets_cache_on_a_network_file_system_is_moved_to_the_local_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which file systems those are is tested beside the archives; here the Hugging Face home is said to be on one."""
    monkeypatch.delenv("LMMS_EVAL_DATASETS_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nfs"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "scratch"))
    assert folders.datasets_cache() is None, "a local place is the library's own business"
    far = {tmp_path / "nfs" / "datasets"}
    monkeypatch.setattr(folders, "is_on_network", lambda path: path in far)
    assert folders.datasets_cache() == tmp_path / "scratch" / "lmms_eval_hf_datasets" / getpass.getuser()
    far.add(tmp_path / "scratch")
    assert folders.datasets_cache() is None, "there is no better place"
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", "$HF_HOME/chosen")
    assert folders.datasets_cache() == tmp_path / "nfs" / "chosen"
