"""``!function``: Python files beside a task are run once and shared."""

from __future__ import annotations

import os.path
import pickle
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.tasks.functions import Sources, describe_callable, resolve_functions
from lmms_eval_grpc.engine.tasks.yaml_loader import FunctionReference, TaskFileError


def resolve(folder: Path, reference: str, sources: Sources | None = None) -> Any:
    return resolve_functions(FunctionReference(reference, folder), sources or Sources())


def write_utils(folder: Path, source: str, name: str = "utils.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(source))
    return path


def test_references_to_one_file_share_its_module(tmp_path: Path) -> None:
    write_utils(
        tmp_path,
        """
        seen = []
        def add(x): seen.append(x)
        def get(): return list(seen)
        """,
    )
    resolve(tmp_path, "utils.add")(1)
    assert resolve(tmp_path, "utils.get")() == [1]


def test_nested_values_are_resolved_and_others_left(tmp_path: Path) -> None:
    write_utils(tmp_path, "def f(): return 'f'\n")
    reference = FunctionReference("utils.f", tmp_path)
    resolved = resolve_functions({"a": [{"b": reference}], "c": 1}, Sources())
    assert resolved["a"][0]["b"]() == "f"
    assert resolved["c"] == 1


def test_files_of_one_name_in_two_folders_do_not_collide(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_utils(tmp_path / name, f"def who(): return {name!r}\n")
    assert [resolve(tmp_path / name, "utils.who")() for name in ("one", "two")] == ["one", "two"]


def test_a_file_that_changed_is_run_again_and_its_digest_with_it(tmp_path: Path) -> None:
    first, second = Sources(), Sources()
    path = write_utils(tmp_path, "def f(): return 1\n")
    assert resolve(tmp_path, "utils.f", first)() == 1
    write_utils(tmp_path, "def f(): return 2\n")
    assert resolve(tmp_path, "utils.f", second)() == 2
    assert first.digests.keys() == second.digests.keys() == {path.resolve()}
    assert first.digests != second.digests


def test_what_a_task_defines_can_be_pickled(tmp_path: Path) -> None:
    write_utils(tmp_path, "class Score:\n    value = 3\n")
    score = resolve(tmp_path, "utils.Score")()
    assert pickle.loads(pickle.dumps(score)).value == 3


def test_without_a_file_the_name_is_imported(tmp_path: Path) -> None:
    sources = Sources()
    assert resolve(tmp_path, "os.path.basename", sources) is os.path.basename
    assert list(sources.digests) == [Path(os.path.__file__).resolve()]


def test_an_unknown_module_names_both_places_that_were_tried(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError) as raised:
        resolve(tmp_path, "no_such_module_here.f")
    assert str(tmp_path / "no_such_module_here.py") in str(raised.value)
    assert "importing module 'no_such_module_here' failed" in str(raised.value)


def test_a_file_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_utils(tmp_path, "x = 1\nimport a_package_that_is_missing\n")
    with pytest.raises(TaskFileError) as raised:
        resolve(tmp_path, "utils.f")
    assert f"{path}: line 2: ModuleNotFoundError" in str(raised.value)
    assert "install" in str(raised.value)


def test_a_missing_function_and_a_bare_name_are_explained(tmp_path: Path) -> None:
    write_utils(tmp_path, "def f(): ...\n")
    with pytest.raises(TaskFileError, match="has no 'g'"):
        resolve(tmp_path, "utils.g")
    with pytest.raises(TaskFileError, match=r"must be module\.function"):
        resolve(tmp_path, "utils")


def test_a_function_is_described_without_paths_or_addresses(tmp_path: Path) -> None:
    write_utils(tmp_path, "def f(): ...\nclass Filter: ...\n", "my_utils.py")
    assert describe_callable(resolve(tmp_path, "my_utils.f")) == "!function my_utils.f"
    assert describe_callable(resolve(tmp_path, "my_utils.Filter")) == "!function my_utils.Filter"
    assert describe_callable(len) == "!function builtins.len"
