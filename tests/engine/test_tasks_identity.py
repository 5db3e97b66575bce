"""A task's identity covers the modules that its code imports from its own folder or tree."""

from __future__ import annotations

import shutil
import site
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.run.evaluate import RUN_LOG, evaluate
from lmms_eval_grpc.engine.tasks import imports
from lmms_eval_grpc.engine.tasks.load import load_tasks
from lmms_eval_grpc.engine.tasks.task import Task
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

USES_FUNCTIONS = """
process_results: !function utils.score
metric_list: [{metric: points, aggregation: mean, higher_is_better: true}]
"""

BY_PATH = """
import os
import sys
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from points import points

def score(doc, results): return {"points": points(doc["answer"], results[0])}
"""

LAZILY = """
import sys, os
sys.path.insert(0, os.path.dirname(__file__))

def score(doc, results):
    from points import points
    return {"points": points(doc["answer"], results[0])}
"""

RELATIVE = """
from .points import points

def score(doc, results): return {"points": points(doc["answer"], results[0])}
"""

BY_NAME = """
from lmms_eval.tasks.common.points import points

def score(doc, results): return {"points": points(doc["answer"], results[0])}
"""


@pytest.fixture(autouse=True)
def import_path() -> Iterator[None]:
    """``sys.path`` as it was: the tasks here put their folders on it."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def points_module(value: int) -> str:
    return f"def points(answer, response): return {value}\n"


def score_of(task: Task) -> float:
    return float(task.config.process_results({"answer": "a"}, ["a"])["points"])  # type: ignore[misc]


@pytest.mark.parametrize("utils", [BY_PATH, LAZILY, RELATIVE, BY_NAME], ids=["path", "lazily", "relative", "name"])
def test_a_changed_helper_is_another_task(tmp_path: Path, utils: str) -> None:
    # Names of their own: a process has one module called lmms_eval.tasks.x.
    name = tmp_path.name
    folder = tmp_path / "lmms_eval" / "tasks" / name
    helper = folder / f"{name}_points.py"
    utils = utils.replace("from points", f"from {name}_points").replace(".points", f".{name}_points")
    write_task(folder, USES_FUNCTIONS, utils=utils.replace("tasks.common", f"tasks.{name}"))
    helper.write_text(points_module(1))
    first = load(folder)
    assert score_of(first) == 1
    assert set(first.source_digests) == {f"{name}/utils.py", f"{name}/{helper.name}"}

    helper.write_text(points_module(2))
    second = load(folder)

    assert second.identity != first.identity
    assert second.source_digests[f"{name}/{helper.name}"] != first.source_digests[f"{name}/{helper.name}"]
    assert score_of(second) == 2, "the identity must be of the code that runs"
    helper.write_text(points_module(1))
    assert load(folder).identity == first.identity


def test_helpers_of_helpers_and_packages_count(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    write_task(folder, USES_FUNCTIONS, utils=BY_PATH.replace("from points import", "from deep.points import"))
    (folder / "deep").mkdir()
    (folder / "deep" / "__init__.py").write_text("from .scale import FACTOR\n")
    (folder / "deep" / "scale.py").write_text("FACTOR = 1\n")
    (folder / "deep" / "points.py").write_text("from deep import FACTOR\ndef points(answer, response): return FACTOR\n")
    first = load(folder)
    assert set(first.source_digests) == {"toy/utils.py", "deep/__init__.py", "deep/scale.py", "deep/points.py"}
    (folder / "deep" / "scale.py").write_text("FACTOR = 3\n")
    second = load(folder)
    assert second.identity != first.identity
    assert score_of(second) == 3


def test_a_module_that_another_task_imported_first_counts_for_both(tmp_path: Path) -> None:
    package = tmp_path / "lmms_eval"
    for name in ("one", "two"):
        write_task(
            package / "tasks" / name, USES_FUNCTIONS, name=name, utils=BY_NAME.replace("common", "shared_by_two")
        )
    helper = package / "tasks" / "shared_by_two" / "points.py"
    helper.parent.mkdir()
    helper.write_text(points_module(1))

    def both() -> list[Task]:
        return list(load_tasks(EvaluationConfig("huggingface", ("one", "two"), include_paths=(package / "tasks",))))

    before = both()
    assert all("shared_by_two/points.py" in task.source_digests for task in before)
    helper.write_text(points_module(2))
    after = both()
    assert [old.identity != new.identity for old, new in zip(before, after, strict=True)] == [True, True]
    assert [score_of(task) for task in after] == [2, 2]


def test_tasks_whose_helpers_have_one_name_each_get_their_own(tmp_path: Path) -> None:
    for value, name in enumerate(("one", "two"), start=1):
        write_task(tmp_path / name, USES_FUNCTIONS, name=name, utils=BY_PATH)
        (tmp_path / name / "points.py").write_text(points_module(value))
    config = EvaluationConfig("huggingface", ("one", "two"), include_paths=(tmp_path,))
    one, two = load_tasks(config)
    assert [score_of(one), score_of(two)] == [1, 2]
    assert set(one.source_digests) == {"one/utils.py", "one/points.py"}
    assert set(two.source_digests) == {"two/utils.py", "two/points.py"}
    alone = load_tasks(EvaluationConfig("huggingface", ("two",), include_paths=(tmp_path,)))
    assert alone[0].identity == two.identity, "what else a process runs is no part of a task"


def test_packages_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    for value, (name, module) in enumerate((("one", "first"), ("two", "second")), start=1):
        utils = BY_PATH.replace("from points import", f"from scorers.{module} import")
        write_task(tmp_path / name, USES_FUNCTIONS, name=name, utils=utils)
        (tmp_path / name / "scorers").mkdir()
        (tmp_path / name / "scorers" / "__init__.py").touch()
        (tmp_path / name / "scorers" / f"{module}.py").write_text(points_module(value))
    one, two = load_tasks(EvaluationConfig("huggingface", ("one", "two"), include_paths=(tmp_path,)))
    assert [score_of(one), score_of(two)] == [1, 2]
    assert {name for name in sys.modules if name.startswith("scorers")} == {"scorers", "scorers.second"}
    again = load_tasks(EvaluationConfig("huggingface", ("one", "two"), include_paths=(tmp_path,)))
    assert [task.identity for task in again] == [one.identity, two.identity]


def test_a_helper_shared_by_folders_of_a_benchmark_is_run_once(tmp_path: Path) -> None:
    """As in hd_epic: each folder's utils.py puts the folder above on sys.path and takes everything from utils there."""
    above = "import os, sys\nsys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))\n"
    for name in ("one", "two"):
        write_task(tmp_path / "bench" / name, USES_FUNCTIONS, name=name, utils=above + "from utils import *\n")
    (tmp_path / "bench" / "utils.py").write_text(
        "calls = []\ndef score(doc, results):\n    calls.append(1)\n    return {'points': len(calls)}\n"
    )
    sys.path.insert(0, str(tmp_path / "bench" / "one"))  # as if it were the working directory: utils is still the other
    one, two = load_tasks(EvaluationConfig("huggingface", ("one", "two"), include_paths=(tmp_path,)))
    assert set(one.source_digests) == {"one/utils.py", "bench/utils.py"}
    assert score_of(one) + 1 == score_of(two)


def test_installed_packages_and_the_standard_library_do_not_count(tmp_path: Path) -> None:
    utils = "import json, os.path\nimport numpy as np\nimport yaml\nfrom lmms_eval.utils import eval_logger\n"
    write_task(tmp_path / "toy", USES_FUNCTIONS, utils=utils + "def score(doc, results): return {'points': 1}\n")
    assert set(load(tmp_path / "toy").source_digests) == {"toy/utils.py"}


def test_packages_that_are_installed_in_place_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout of a large library may be installed so, and would be read file by file."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "__editable__.big.pth").write_text(f"# a comment\nimport os\n{tmp_path / 'checkout'}\n/gone\n")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "big.py").write_text("value = 1\n")
    utils = "import big\ndef score(doc, results): return {'points': big.value}\n"
    write_task(tmp_path / "toy", USES_FUNCTIONS, utils=utils)
    monkeypatch.syspath_prepend(str(tmp_path / "checkout"))
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path / "site")])
    imports.installed_places.cache_clear()
    try:
        assert set(load(tmp_path / "toy").source_digests) == {"toy/utils.py"}
    finally:
        monkeypatch.undo()
        imports.installed_places.cache_clear()
        sys.modules.pop("big", None)


def test_our_own_benchmarks_count_what_they_share() -> None:
    from lmms_eval_grpc.engine.tasks.dependencies import source_files
    from lmms_eval_grpc.engine.tasks.sources import OWN_FOLDER

    found = {str(path.relative_to(OWN_FOLDER)) for path in source_files(OWN_FOLDER / "mmmu" / "utils.py")}
    assert {"mmmu/utils.py", "mmmu/answers.py", "_shared/choices.py"} <= found


def test_the_identity_does_not_depend_on_the_place(tmp_path: Path) -> None:
    write_task(tmp_path / "a" / "toy", USES_FUNCTIONS, utils=BY_PATH)
    (tmp_path / "a" / "toy" / "points.py").write_text(points_module(1))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert load(tmp_path / "a").identity == load(tmp_path / "b").identity


def test_files_of_one_name_in_two_folders_both_appear(tmp_path: Path) -> None:
    utils = BY_PATH.replace("from points import points", "from a.same.points import points\nimport b.same.points")
    write_task(tmp_path / "toy", USES_FUNCTIONS, utils=utils)
    for name in ("a", "b"):
        (tmp_path / "toy" / name / "same").mkdir(parents=True)
        (tmp_path / "toy" / name / "same" / "points.py").write_text(points_module(1))
    names = set(load(tmp_path / "toy").source_digests)
    assert names == {f"{tmp_path.name}/toy/utils.py", "a/same/points.py", "b/same/points.py"}


def test_a_changed_helper_makes_a_resumed_run_ask_again(tmp_path: Path) -> None:
    write_task(tmp_path / "toy", USES_FUNCTIONS, utils=BY_PATH)
    helper = tmp_path / "toy" / "points.py"
    helper.write_text(points_module(1))
    config = EvaluationConfig("scripted", ("toy",), include_paths=(tmp_path / "toy",))

    def run() -> tuple[int, float, str]:
        backend = ScriptedBackend(lambda text: text)
        tasks = load_tasks(config)
        outcome = evaluate(config, tmp_path / "run", Recorder(), tasks=tasks, backend=backend)
        sources = outcome.manifest["tasks"]["toy"]["function_sources"]
        return len(backend.asked), outcome.tasks[0].metrics[0].value, sources["toy/points.py"]

    asked, value, digest = run()
    assert (asked, value) == (6, 1)
    assert run() == (0, 1, digest), "nothing changed, so nothing is asked again"

    helper.write_text(points_module(2))
    asked, value, changed = run()
    assert (asked, value) == (6, 2)
    assert changed != digest
    assert (tmp_path / "run" / f"{RUN_LOG}.1").exists(), "the other task's answers are put aside, not lost"
