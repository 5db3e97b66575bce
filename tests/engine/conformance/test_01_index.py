"""1. The index: names and kinds as lmms-eval's, tags inherited through includes, the first folder wins.

``golden_index.json`` holds a small tree of task files and what lmms-eval 0.7.3's TaskManager makes of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.tasks.index import TaskIndex
from tests.support.lmms_eval_files import PACKAGE, needs_lmms_eval

GOLDEN = json.loads(Path(__file__).with_name("golden_index.json").read_text())

NAMES_OF_073 = "33bc3adb50cdf879de28c454c317b8c2ac6bea0b8be172002ff1377058c130f0"
"""SHA-256 over the sorted lines ``name kind`` of lmms-eval 0.7.3's own TaskManager."""


@pytest.fixture
def index(tmp_path: Path) -> TaskIndex:
    for name, text in GOLDEN["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return TaskIndex.scan([tmp_path / folder for folder in GOLDEN["folders"]], include_defaults=False)


def test_names_and_kinds_are_lmms_evals(index: TaskIndex) -> None:
    expected = {name: entry["kind"] for name, entry in GOLDEN["expected"].items()}
    assert {entry.name: entry.kind for entry in index.entries()} == expected


def test_tags_are_inherited_through_includes(index: TaskIndex) -> None:
    for name, expected in GOLDEN["expected"].items():
        entry = index.get(name)
        assert entry is not None
        if expected["kind"] == "tag":
            assert sorted(entry.members) == expected["members"], name


def test_the_first_folder_that_defines_a_name_wins(index: TaskIndex, tmp_path: Path) -> None:
    for name, expected in GOLDEN["expected"].items():
        entry = index.get(name)
        assert entry is not None
        if expected["source"] is not None:
            assert Path(str(entry.source)).relative_to(tmp_path).as_posix() == expected["source"]


@needs_lmms_eval
def test_the_tree_of_lmms_eval_073_has_its_1985_names() -> None:
    index = TaskIndex.scan([PACKAGE / "tasks"], include_defaults=False)
    kinds = Counter(entry.kind for entry in index.entries())
    assert kinds == {"task": 1711, "python_task": 2, "group": 201, "tag": 71}
    lines = "\n".join(f"{entry.name} {entry.kind}" for entry in index.entries())
    assert hashlib.sha256(lines.encode()).hexdigest() == NAMES_OF_073
    assert len(index.problems()) == 3  # names that two of its files claim
