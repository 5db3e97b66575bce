"""Checkpoints that are named by a URL: copied once, known by the URL, within bounds."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.check import check_config
from lmms_eval_grpc.engine.models.checkpoint_cache import CheckpointCache
from lmms_eval_grpc.engine.models.checkpoint_url import local_checkpoint
from lmms_eval_grpc.engine.run.evaluate import RUN_LOG, evaluate
from lmms_eval_grpc.engine.run.log import read_sound_lines
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from tests.support.reporters import Recorder


def proceed() -> None:
    """Nobody has cancelled."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMMS_EVAL_GRPC_CHECKPOINT_CACHE", str(folder))
    return folder


@pytest.fixture
def bucket() -> Iterator[Callable[..., str]]:
    """``bucket("name", file=content, …)`` puts files into a store in memory and returns their URL."""
    store = fsspec.filesystem("memory")

    def put(name: str, **files: bytes) -> str:
        for file, content in {"config__json": b"{}", **files}.items():
            store.pipe_file(f"/bucket/{name}/{file.replace('__', '.').replace('_in_', '/')}", content)
        return f"memory://bucket/{name}"

    yield put
    store.rm("/bucket", recursive=True)


def config_for(url: str, **changes: Any) -> EvaluationConfig:
    config = EvaluationConfig("huggingface", ("handwritten_digits",), {"pretrained": url}, limit=4)
    return replace(config, **changes)


def copy_of(url: str) -> Path:
    with local_checkpoint(config_for(url), proceed) as checkpoint:
        return Path(checkpoint.config.model_args["pretrained"])


def copies(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_an_evaluation_of_a_url_is_that_of_the_folder_and_can_be_taken_up_where_the_copy_lies_elsewhere(
    tiny_checkpoint: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tiny_checkpoint}"
    by_path = evaluate(config_for(str(tiny_checkpoint)), tmp_path / "path", Recorder())
    by_url = evaluate(config_for(url), tmp_path / "url", Recorder())
    assert by_url.tasks[0].metrics == by_path.tasks[0].metrics
    assert by_url.manifest["model"] == by_path.manifest["model"] | {"pretrained": url}
    assert len(copies(cache)) == 1

    monkeypatch.setenv("LMMS_EVAL_GRPC_CHECKPOINT_CACHE", str(tmp_path / "another node"))
    recorder = Recorder()
    evaluate(config_for(url, limit=6), tmp_path / "url", recorder)
    _, lines = read_sound_lines(tmp_path / "url" / RUN_LOG)
    answered = [line["doc_id"] for line in lines if line["kind"] == "answer"]
    assert answered == [0, 1, 2, 3, 4, 5], "the four answers of before were taken up"


def test_a_checkpoint_is_copied_once_until_it_is_written_anew(bucket: Callable[..., str], cache: Path) -> None:
    url = bucket("step-1", model__safetensors=b"one")
    first = copy_of(url)
    assert (first / "model.safetensors").read_bytes() == b"one"
    assert copy_of(url) == first
    time.sleep(0.01)  # the store tells versions apart by their time
    bucket("step-1", model__safetensors=b"two")
    second = copy_of(url)
    assert second != first
    assert (second / "model.safetensors").read_bytes() == b"two"


def test_what_only_a_trainer_needs_is_not_copied(bucket: Callable[..., str]) -> None:
    url = bucket(
        "step", model__safetensors=b"m", optimizer__pt=b"o" * 100, rng_state__pth=b"r", global_in_shard__pt=b"s"
    )
    bucket("step", additional_chat_templates_in_tool__jinja=b"t")
    folder = copy_of(url)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["additional_chat_templates/tool.jinja", "config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://bucket/nowhere", "it cannot be listed: FileNotFoundError"),
        ("s3://bucket/checkpoint", "s3fs"),
        ("memory://bucket/empty", "it has no config.json"),
    ],
)
def test_what_cannot_be_had_is_explained(url: str, words: str, bucket: Callable[..., str]) -> None:
    if url.startswith("s3") and importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed, and there is no network")
    bucket("other")
    fsspec.filesystem("memory").pipe_file("/bucket/empty/readme", b"")
    with pytest.raises(EvaluationError, match=words) as raised, local_checkpoint(config_for(url), proceed):
        pass
    assert raised.value.reason == "MODEL_LOAD_FAILED"


def test_an_unknown_scheme_is_refused_before_anything_is_queued() -> None:
    problems = check_config(config_for("s4://bucket/checkpoint"), TaskIndex.scan(()))
    assert [problem.field for problem in problems] == ["model_args.pretrained"]
    assert "fsspec knows no scheme 's4'" in problems[0].description
    assert check_config(config_for("s3://bucket/checkpoint"), TaskIndex.scan(())) == []


def test_a_copy_that_fails_or_is_cancelled_leaves_nothing(
    bucket: Callable[..., str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket("step", model__safetensors=b"m" * 1000)

    def cancel() -> None:
        raise EvaluationCancelled

    with pytest.raises(EvaluationCancelled), local_checkpoint(config_for(url), cancel):
        pass
    assert copies(cache) == []

    def break_off(*_: Any, **__: Any) -> None:
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", break_off)
        with pytest.raises(EvaluationError, match="cannot be copied: OSError: connection reset"):
            copy_of(url)
    assert copies(cache) == []
    assert (copy_of(url) / "model.safetensors").stat().st_size == 1000


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cache = CheckpointCache(tmp_path / "cache", 250)

    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"x" * 100)

    def use(key: str) -> Path:
        with cache.use(key, 100, fill, proceed) as folder:
            return folder

    one, two = use("one"), use("two")
    os.utime(two, (1, 1))
    os.utime(one, (2, 2))
    with ExitStack() as held:
        held.enter_context(cache.use("two", 100, fill, proceed))
        os.utime(two, (1, 1))
        use("three")
        assert two.is_dir(), "somebody uses it"
        assert not one.exists()
    os.utime(two, (1, 1))
    use("four")
    assert not two.exists()
    huge = cache.use("huge", 251, fill, proceed)
    with pytest.raises(EvaluationError, match="raise LMMS_EVAL_GRPC_CHECKPOINT_CACHE_GIB"):
        huge.__enter__()


def test_those_who_want_the_same_copy_wait_for_the_first(tmp_path: Path) -> None:
    cache = CheckpointCache(tmp_path / "cache", 1000)
    filled: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def fill(folder: Path) -> None:
        filled.append(1)
        begun.set()
        assert go_on.wait(60)
        (folder / "weights").touch()

    def use() -> None:
        with cache.use("one", 0, fill, proceed) as folder:
            assert (folder / "weights").exists()

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    go_on.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert filled == [1]
