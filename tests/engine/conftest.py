"""Tiny checkpoints and real digits for the engine's tests; every checkpoint is made once per session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.support.judge_server import JudgeHandle, Reply, question, running_judge

DIGITS = Path(__file__).resolve().parents[2] / "lmms_eval_grpc" / "benchmarks" / "handwritten_digits" / "test.parquet"


@pytest.fixture(autouse=True, scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The index of tasks is remembered in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None) -> Callable[[str], Path]:
    """``tiny("llava_hf")``: folder of a checkpoint of that family with random weights."""
    from tests.support.checkpoints import build_checkpoint  # late: many tests of the engine need no model library

    root = tmp_path_factory.mktemp("tiny")

    def get(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else build_checkpoint(family, folder)

    return get


@pytest.fixture(scope="session")
def digit_images() -> list[bytes]:
    """The PNG files of the digits task, in its order."""
    return [row["bytes"] for row in pyarrow.parquet.read_table(DIGITS, columns=["image"])["image"].to_pylist()]


@pytest.fixture
def api_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeHandle]:
    """A server that speaks OpenAI's API, which the environment does not know of."""
    for name in ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_URL", "LMMS_IMAGE_ENCODE_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    with running_judge() as handle:
        handle.answer = lambda asked: Reply(f"answer to {question(asked)}")
        yield handle
