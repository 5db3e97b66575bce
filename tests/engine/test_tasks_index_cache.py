"""The index on disk: what changed is read again, what did not is not, and a broken cache costs nothing but time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.packages import LMMS_EVAL_VARIABLE, entry_points
from lmms_eval_grpc.engine.tasks import index as index_module
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from lmms_eval_grpc.engine.tasks.index_cache import default_cache_folder
from tests.support.task_files import write_yaml


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    write_yaml(folder, "template", "tag: all\noutput_type: multiple_choice\n")
    for name in ("a", "b", "c"):
        write_yaml(folder, f"{name}.yaml", f"include: template\ntask: {name}\n")
    text = "group: g\ntask: [a]\naggregate_metric_list: [{metric: m, aggregation: !function utils.f}]\n"
    write_yaml(folder, "g.yaml", text)
    return folder


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, growing as they are."""
    read: list[str] = []
    real = index_module.read_task_file

    def noted(reader: object, path: Path) -> object:
        read.append(path.name)
        return real(reader, path)  # type: ignore[arg-type]

    monkeypatch.setattr(index_module, "read_task_file", noted)
    return read


@pytest.fixture
def reopen(tree: Path, tmp_path: Path) -> Callable[[], TaskIndex]:
    return lambda: TaskIndex.open([tree], include_defaults=False, cache_folder=tmp_path / "cache")


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, ns=(path.stat().st_mtime_ns + 10**9,) * 2)


def test_nothing_is_read_again_and_the_index_is_the_same(
    tree: Path, reopen: Callable[[], TaskIndex], files_read: list[str]
) -> None:
    first = reopen()
    assert sorted(files_read) == ["a.yaml", "b.yaml", "c.yaml", "g.yaml"]
    files_read.clear()
    again = reopen()
    assert files_read == []
    assert again.entries() == first.entries() == TaskIndex.scan([tree], include_defaults=False).entries()
    assert again.group_config("g") == first.group_config("g")


def test_a_changed_a_new_and_a_removed_file_are_noticed(
    tree: Path, reopen: Callable[[], TaskIndex], files_read: list[str]
) -> None:
    reopen()
    files_read.clear()
    rewrite(tree / "a.yaml", "task: a\n")
    write_yaml(tree, "d.yaml", "task: d\n")
    (tree / "b.yaml").unlink()
    index = reopen()
    assert sorted(files_read) == ["a.yaml", "d.yaml"]
    assert [entry.name for entry in index.entries()] == ["a", "all", "c", "d", "g"]
    tag = index.get("all")
    assert tag is not None
    assert tag.members == ("c",)


def test_a_changed_template_makes_all_that_include_it_be_read_again(
    tree: Path, reopen: Callable[[], TaskIndex], files_read: list[str]
) -> None:
    reopen()
    files_read.clear()
    rewrite(tree / "template", "tag: other\n")
    index = reopen()
    assert sorted(files_read) == ["a.yaml", "b.yaml", "c.yaml"]
    assert index.get("all") is None
    assert index.get("other") is not None


def test_a_file_in_the_working_directory_wins_over_a_cached_include(
    tree: Path, reopen: Callable[[], TaskIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reopen()
    write_yaml(tmp_path / "elsewhere", "template", "tag: from_here\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert reopen().get("from_here") is not None
    monkeypatch.chdir(tmp_path)
    assert reopen().get("from_here") is None


def test_problems_stay_problems(tree: Path, reopen: Callable[[], TaskIndex]) -> None:
    write_yaml(tree, "broken.yaml", "task: [\n")
    assert [problem.path.name for problem in reopen().problems()] == ["broken.yaml"]
    assert [problem.path.name for problem in reopen().problems()] == ["broken.yaml"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "version": 0}),
        lambda text: json.dumps({**json.loads(text), "files": {"x": 1}}),
        lambda text: json.dumps({**json.loads(text), "folder": "/elsewhere"}),
    ],
)
def test_a_broken_cache_is_ignored_and_replaced(
    reopen: Callable[[], TaskIndex], tmp_path: Path, files_read: list[str], spoil: Callable[[str], str]
) -> None:
    entries = reopen().entries()
    (path,) = (tmp_path / "cache").iterdir()
    path.write_text(spoil(path.read_text()))
    assert reopen().entries() == entries
    files_read.clear()
    assert reopen().entries() == entries
    assert files_read == []


def test_drafts_of_processes_that_were_killed_are_removed_and_those_being_written_are_not(
    tree: Path, reopen: Callable[[], TaskIndex], tmp_path: Path
) -> None:
    reopen()
    (kept,) = (tmp_path / "cache").iterdir()
    abandoned, written = kept.with_name(f"{kept.name}.k3j"), kept.with_name(f"{kept.name}.x7b")
    for draft in (abandoned, written):
        draft.write_text("{")
    os.utime(abandoned, (0, 0))
    rewrite(tree / "a.yaml", (tree / "a.yaml").read_text())
    reopen()
    assert set((tmp_path / "cache").iterdir()) == {kept, written}


def test_a_cache_that_cannot_be_written_is_no_error(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    index = TaskIndex.open([tree], include_defaults=False, cache_folder=tmp_path / "file" / "cache")
    assert index.get("a") is not None


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "lmms-eval-grpc"


def test_include_paths_override_only_on_request(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_yaml(
            tmp_path, f"{folder}/t.yaml", f"task: t\noutput_type: loglikelihood\nmetadata: {{description: {folder}}}\n"
        )
    folders = [tmp_path / "one", tmp_path / "two"]

    def owner(*, override: bool) -> str:
        entry = TaskIndex.scan(folders, include_defaults=False, override=override).get("t")
        assert entry is not None
        return entry.description

    assert owner(override=False) == "one"
    assert owner(override=True) == "two"


def test_tasks_of_an_lmms_eval_are_a_source_and_lose_names_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_yaml(tmp_path, "lmms_eval/tasks/x.yaml", "task: only_there\n")
    write_yaml(tmp_path, "lmms_eval/tasks/digits.yaml", "task: handwritten_digits\n")
    monkeypatch.setenv(LMMS_EVAL_VARIABLE, str(tmp_path / "lmms_eval"))
    index = TaskIndex.scan()
    assert index.get("only_there") is not None
    digits = index.get("handwritten_digits")
    assert digits is not None
    assert str(tmp_path) not in str(digits.source)
    assert not [problem for problem in index.problems() if str(tmp_path) in problem.reason]
    monkeypatch.setenv(LMMS_EVAL_VARIABLE, "none")
    assert TaskIndex.scan().get("only_there") is None


def test_plug_ins_bring_tasks_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(tmp_path, "site/a_plug_in/__init__.py", "raise RuntimeError('a plug-in is located, not imported')\n")
    write_yaml(tmp_path, "site/a_plug_in/t.yaml", "task: plugged_in\n")
    write_yaml(tmp_path, "site/a_plug_in-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: a-plug-in\nVersion: 1\n")
    points = "[lmms_eval_grpc.tasks]\nplug = a_plug_in\ngone = no_such_package\n"
    write_yaml(tmp_path, "site/a_plug_in-1.dist-info/entry_points.txt", points)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    index = TaskIndex.scan()
    assert index.get("plugged_in") is not None
    assert any("gone = no_such_package" in problem.reason for problem in index.problems())


def test_a_plug_in_that_is_installed_later_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    assert entry_points("tests.of.a.group") == ()
    write_yaml(tmp_path, "site/late-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: late\nVersion: 1\n")
    write_yaml(tmp_path, "site/late-1.dist-info/entry_points.txt", "[tests.of.a.group]\nlate = late\n")
    os.utime(site, (1, 1))  # clocks of file systems are coarse
    assert [point.name for point in entry_points("tests.of.a.group")] == ["late"]


def test_lmms_evals_variable_for_plug_ins_brings_their_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(tmp_path, "site/with_tasks/__init__.py", "raise RuntimeError('a plug-in is located, not imported')\n")
    write_yaml(tmp_path, "site/with_tasks/tasks/t.yaml", "task: of_the_variable\n")
    write_yaml(tmp_path, "site/with_models/__init__.py", "")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("LMMS_EVAL_PLUGINS", "with_models, with_tasks,no_such_package")
    index = TaskIndex.scan()
    assert index.get("of_the_variable") is not None
    reasons = [problem.reason for problem in index.problems() if "LMMS_EVAL_PLUGINS" in problem.reason]
    assert reasons == [
        "'no_such_package' in LMMS_EVAL_PLUGINS names no installed package; correct or uninstall the plug-in"
    ]
