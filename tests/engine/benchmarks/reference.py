"""lmms-eval's own task functions, to compare ours with; its folder is named by LMMS_EVAL_REFERENCE."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from lmms_eval_grpc.engine.tasks.yaml_loader import YamlReader
from tests.engine.benchmarks.made import SHIPPED

FOLDER = os.environ.get("LMMS_EVAL_REFERENCE", "")

COUNT = 2000
"""Random answers per comparison."""
OPTIONS = ["a red apple", "the banana", "two dogs", "A", "42"]
"""Texts that occur in the answers."""

Reference = Callable[[str], ModuleType]


def require_reference() -> None:
    """Skips the calling module where there is nothing to compare with."""
    if not FOLDER:
        pytest.skip("LMMS_EVAL_REFERENCE is not set", allow_module_level=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """``reference("mme.utils")``: that module of lmms-eval's tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        patch.setenv("OPENAI_API_KEY", "none")  # some modules make a client while they are imported
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(tmp_path_factory.mktemp("reference"))  # they write submission files
        for name in ("NUM_IMAGE", "API_TYPE"):
            patch.delenv(name, raising=False)

        def get(name: str) -> ModuleType:
            try:
                return importlib.import_module(f"lmms_eval.tasks.{name}")
            except ImportError as error:
                pytest.skip(f"lmms-eval's {name} cannot be imported: {error}")

        yield get
        for name in [name for name in sys.modules if name == "lmms_eval" or name.startswith("lmms_eval.")]:
            del sys.modules[name]


def kwargs_of(task: str) -> list[dict[str, Any]]:
    """What the functions of a shipped task get, for each model that its file names."""
    (path,) = SHIPPED.rglob(f"{task}.yaml")
    given = YamlReader().read(path)["lmms_eval_specific_kwargs"]
    return [{**given, **value} if name == "default" else value for name, value in given.items()]
