"""lmms-eval's own task functions, to compare ours with."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from PIL import Image, ImageFile

from lmms_eval_grpc.engine.packages import StandIn
from lmms_eval_grpc.engine.tasks import shims
from lmms_eval_grpc.engine.tasks.yaml_loader import YamlReader
from tests.engine.benchmarks.made import SHIPPED
from tests.support.lmms_eval_files import ROOT

COUNT = 2000
"""Random answers per comparison."""
OPTIONS = ["a red apple", "the banana", "two dogs", "A", "42"]
"""Texts that occur in the answers."""

Reference = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """``reference("mme.utils")``: that module of lmms-eval's tasks."""
    # The package sets variables and changes what others have, images that are cut off among it, for good.
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ), warnings.catch_warnings():
        for module, name in ((Image, "MAX_IMAGE_PIXELS"), (ImageFile, "LOAD_TRUNCATED_IMAGES")):
            patch.setattr(module, name, getattr(module, name))
        for name in _loaded():
            patch.delitem(sys.modules, name)  # what an earlier test's tasks were given in its place
        patch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, StandIn)])
        patch.syspath_prepend(ROOT)
        if importlib.util.find_spec("loguru") is None:
            patch.setitem(sys.modules, "loguru", _our_loguru())
        patch.setenv("OPENAI_API_KEY", "none")  # some modules make a client while they are imported
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(tmp_path_factory.mktemp("reference"))  # they write submission files
        for name in ("NUM_IMAGE", "API_TYPE"):
            patch.delenv(name, raising=False)

        package = importlib.import_module("lmms_eval")
        assert package.__file__ == str(ROOT / "lmms_eval" / "__init__.py")

        def get(name: str) -> ModuleType:
            return importlib.import_module(f"lmms_eval.tasks.{name}")

        yield get
        for name in _loaded():
            del sys.modules[name]


def _loaded() -> list[str]:
    return [name for name in sys.modules if name == "lmms_eval" or name.startswith("lmms_eval.")]


def _our_loguru() -> ModuleType:
    """The stand-in that task code gets. The real one is not installed for tests, so that they use ours."""
    spec = importlib.util.spec_from_file_location("loguru", Path(shims.__file__).with_name("loguru.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kwargs_of(task: str) -> list[dict[str, Any]]:
    """What the functions of a shipped task get, for each model that its file names."""
    (path,) = SHIPPED.rglob(f"{task}.yaml")
    given = YamlReader().read(path)["lmms_eval_specific_kwargs"]
    return [{**given, **value} if name == "default" else value for name, value in given.items()]
