"""Reading task files: includes, function references, data files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lmms_eval_grpc.engine.tasks.yaml_loader import FunctionReference, TaskFileError, YamlReader
from tests.support.task_files import write_yaml


def read(path: Path) -> dict[str, object]:
    return YamlReader().read(path)


def test_own_keys_win_over_included_and_the_merge_is_shallow(tmp_path: Path) -> None:
    write_yaml(tmp_path, "base", "a: base\nb: base\nnested: {x: 1, y: 2}\n")
    path = write_yaml(tmp_path, "t.yaml", "include: base\nb: own\nnested: {x: 3}\n")
    assert read(path) == {"a": "base", "b": "own", "nested": {"x": 3}}


def test_of_several_includes_the_first_listed_wins(tmp_path: Path) -> None:
    write_yaml(tmp_path, "one", "a: one\nb: one\n")
    write_yaml(tmp_path, "two", "a: two\nb: two\nc: two\n")
    path = write_yaml(tmp_path, "t.yaml", "include: [one, two]\nb: own\n")
    assert read(path) == {"a": "one", "b": "own", "c": "two"}


def test_an_include_is_looked_for_in_the_working_directory_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_yaml(tmp_path / "cwd", "base", "where: cwd\n")
    write_yaml(tmp_path / "task", "base", "where: beside\n")
    path = write_yaml(tmp_path / "task", "t.yaml", "include: base\n")
    monkeypatch.chdir(tmp_path / "cwd")
    assert read(path) == {"where": "cwd"}
    monkeypatch.chdir(tmp_path)
    assert read(path) == {"where": "beside"}


def test_includes_that_go_in_a_circle_are_an_error(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "a.yaml", "include: b.yaml\n")
    write_yaml(tmp_path, "b.yaml", "include: a.yaml\n")
    with pytest.raises(TaskFileError, match="circle"):
        read(path)


def test_a_function_belongs_to_the_folder_of_the_file_that_names_it(tmp_path: Path) -> None:
    write_yaml(tmp_path / "shared", "base", "doc_to_text: !function utils.text\n")
    path = write_yaml(tmp_path / "task", "t.yaml", "include: ../shared/base\nprocess: [!function utils.own]\n")
    config = read(path)
    shared = tmp_path / "task" / ".." / "shared"
    assert config["doc_to_text"] == FunctionReference("utils.text", shared)
    assert config["process"] == [FunctionReference("utils.own", tmp_path / "task")]


def test_the_function_tag_stays_out_of_the_process_wide_loaders(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "t.yaml", "f: !function a.b\n")
    read(path)
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.safe_load(path.read_text())
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.load(path.read_text(), Loader=yaml.FullLoader)


def test_python_tags_are_refused(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "t.yaml", "f: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(TaskFileError, match="not valid YAML"):
        read(path)


def test_data_files_beside_the_task_become_absolute_and_others_stay(tmp_path: Path) -> None:
    for name in ("a.json", "sub/b.json", "part-0.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    text = """
        dataset_path: json
        dataset_kwargs:
          data_files:
            test: [a.json, sub/b.json, gone.json, "https://host/c.json", "/abs/d.json"]
            glob: "part-*.json"
    """
    config = read(write_yaml(tmp_path, "t.yaml", text))
    assert config["dataset_kwargs"] == {
        "data_files": {
            "test": [
                str(tmp_path / "a.json"),
                str(tmp_path / "sub/b.json"),
                "gone.json",
                "https://host/c.json",
                "/abs/d.json",
            ],
            "glob": str(tmp_path / "part-*.json"),
        }
    }


def test_data_files_named_from_the_root_of_a_checkout_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "lmms_eval" / "tasks" / "x"
    data = write_yaml(folder / "data", "d.json", "[]")
    text = "dataset_path: json\ndataset_kwargs: {data_files: lmms_eval/tasks/x/data/d.json}\n"
    config = read(write_yaml(folder, "t.yaml", text))
    assert config["dataset_kwargs"] == {"data_files": str(data)}


def test_data_files_of_a_hub_dataset_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    config = read(write_yaml(tmp_path, "t.yaml", "dataset_path: me/data\ndataset_kwargs: {data_files: a.json}\n"))
    assert config["dataset_kwargs"] == {"data_files": "a.json"}


def test_a_dataset_folder_given_relative_to_the_task_becomes_absolute(tmp_path: Path) -> None:
    config = read(write_yaml(tmp_path / "t", "t.yaml", "dataset_path: ../data\n"))
    assert config["dataset_path"] == str(tmp_path / "data")


def test_changing_what_was_read_does_not_change_what_is_read_next(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "t.yaml", "task: t\n")
    reader = YamlReader()
    reader.read(path).pop("task")
    assert reader.read(path) == {"task": "t"}
