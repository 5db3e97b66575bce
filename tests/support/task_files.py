"""Task files and data for tests, written and loaded the way users do it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.tasks.load import load_tasks
from lmms_eval_grpc.engine.tasks.task import Task

QUESTIONS = [{"question": f"q{number}", "answer": f"a{number}"} for number in range(6)]


@pytest.fixture(autouse=True, scope="session")
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted data go to a temporary folder. Import this into each module of tests that loads tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


def write_yaml(folder: Path, name: str, text: str) -> Path:
    """``name`` in ``folder`` with the dedented ``text``."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def write_task(
    folder: Path,
    keys: str = "",
    *,
    name: str = "toy",
    documents: Sequence[Mapping[str, Any]] = QUESTIONS,
    features: datasets.Features | None = None,
    utils: str = "",
) -> Path:
    """A task over ``documents`` (a parquet file beside it): the YAML text ``keys`` over a plain question and answer."""
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(list(documents), features=features).to_parquet(folder / f"{name}.parquet")
    if utils:
        (folder / "utils.py").write_text(textwrap.dedent(utils))
    keys = textwrap.dedent(keys)
    given = {line.partition(":")[0] for line in keys.splitlines()}
    defaults = {
        "task": name,
        "dataset_path": "parquet",
        "dataset_kwargs": f"{{data_files: {{test: {name}.parquet}}}}",
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_target": "answer",
    }
    head = "".join(f"{key}: {value}\n" for key, value in defaults.items() if key not in given)
    return write_yaml(folder, f"{name}.yaml", head + keys)


def load(folder: Path, name: str = "toy", **settings: Any) -> Task:
    """The one task called ``name`` in ``folder``."""
    config = EvaluationConfig(**{"model": "huggingface", "tasks": (name,), "include_paths": (folder,), **settings})
    (task,) = load_tasks(config)
    return task


def image(value: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A grey image of one value."""
    return Image.new("L", size, value)


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()
