"""From names to tasks: order, groups and their overrides, tags, patterns, files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from lmms_eval_grpc.engine.tasks.resolve import ResolvedTask, describe_unknown, resolve_tasks
from lmms_eval_grpc.engine.tasks.resolve import resolve as resolve_request
from tests.support.task_files import write_yaml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write_yaml(tmp_path, f"{name}.yaml", f"task: {name}\ntag: letters\nrepeats: 1\n")
    return tmp_path


def resolve(folder: Path, *names: str) -> tuple[ResolvedTask, ...]:
    return resolve_tasks(names, TaskIndex.scan([folder], include_defaults=False))


def names(tasks: tuple[ResolvedTask, ...]) -> list[str]:
    return [task.name for task in tasks]


def test_tasks_come_in_the_order_of_the_request_each_once(folder: Path) -> None:
    write_yaml(folder, "g.yaml", "group: g\ntask: [c, a]\n")
    assert names(resolve(folder, "b", "a")) == ["b", "a"]
    assert names(resolve(folder, "b", "g", "letters", "[ab]")) == ["b", "c", "a"]


def test_keys_of_a_group_override_those_of_its_tasks_and_win_over_an_entrys_own(folder: Path) -> None:
    text = """
        group: g
        group_alias: G
        metadata: {version: 9}
        description: from the group
        task:
          - a
          - {task: b, description: from the entry, repeats: 3}
          - letters
    """
    write_yaml(folder, "g.yaml", text.replace("- letters", ""))
    a, b = resolve(folder, "g")
    assert a.values["description"] == b.values["description"] == "from the group"
    assert (a.values["repeats"], b.values["repeats"]) == (1, 3)
    assert "metadata" not in a.values
    assert a.values["task"] == "a"


def test_overrides_reach_the_members_of_a_tag_and_of_inner_groups(folder: Path) -> None:
    write_yaml(folder, "inner.yaml", "group: inner\nrepeats: 4\ntask: [a]\n")
    write_yaml(folder, "outer.yaml", "group: outer\nrepeats: 5\ntask: [inner, {task: letters, description: x}]\n")
    with pytest.raises(EvaluationError, match="asked for twice with different settings"):
        resolve(folder, "outer")
    write_yaml(folder, "outer.yaml", "group: outer\nrepeats: 5\ntask: [inner, {task: letters}]\n")
    assert {task.name: task.values["repeats"] for task in resolve(folder, "outer")} == {"a": 5, "b": 5, "c": 5}


def test_a_task_listed_twice_with_different_settings_is_kept_twice(folder: Path) -> None:
    text = "group: g\ntask: [a, {task: a, repeats: 2}, {task: a, repeats: 3}, a]\n"
    write_yaml(folder, "g.yaml", text)
    tasks = resolve(folder, "g")
    assert names(tasks) == ["a", "a-1", "a-2"]
    assert [task.values["task"] for task in tasks] == ["a", "a-1", "a-2"]


def test_one_task_of_two_groups_with_different_settings_is_an_error_that_names_both(folder: Path) -> None:
    write_yaml(folder, "g.yaml", "group: g\nrepeats: 2\ntask: [a]\n")
    write_yaml(folder, "h.yaml", "group: h\nrepeats: 3\ntask: [a]\n")
    with pytest.raises(EvaluationError, match="group 'g' and in group 'h'"):
        resolve(folder, "g", "h")


def test_a_task_may_be_written_out_inside_a_group(folder: Path) -> None:
    write_yaml(folder, "g.yaml", "group: g\ntask: [{task: inline, dataset_path: x}, {group: h, task: [b]}]\n")
    inline, b = resolve(folder, "g")
    assert inline.values == {"task": "inline", "dataset_path": "x"}
    assert b.name == "b"


def test_a_task_written_out_inside_a_group_may_include_a_file(folder: Path) -> None:
    """Relative to the group's file, or to the working directory as in lmms-eval."""
    write_yaml(folder, "shared/template", "dataset_path: x\ntest_split: test\nnum_fewshot: 1\n")
    text = "group: g\nnum_fewshot: 3\ntask: [{task: inline, include: shared/template, test_split: dev}]\n"
    write_yaml(folder, "g.yaml", text)
    (inline,) = resolve(folder, "g")
    assert inline.values == {"task": "inline", "dataset_path": "x", "test_split": "dev", "num_fewshot": 3}
    write_yaml(folder, "g.yaml", text.replace("shared/template", "gone"))
    with pytest.raises(EvaluationError, match="include 'gone': no such file"):
        resolve(folder, "g")


def test_a_yaml_file_may_be_named_by_its_path(folder: Path) -> None:
    outside = write_yaml(folder.parent / "outside", "mine.yaml", "task: mine\n")
    group = write_yaml(folder.parent / "outside", "group.yaml", "group: ours\ntask: [c]\n")
    assert names(resolve(folder, str(outside), str(group))) == ["mine", "c"]
    with pytest.raises(EvaluationError, match="no key called task"):
        resolve(folder, str(write_yaml(folder.parent / "outside", "no.yaml", "x: 1\n")))
    with pytest.raises(EvaluationError, match="cannot be read"):
        resolve(folder, str(folder / "gone.yaml"))


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("group: g\ntask: [nobody]\n", "TASK_LOAD_FAILED", "'nobody' is no task, group or tag"),
        ("group: g\ntask: [{task: g}]\n", "TASK_LOAD_FAILED", "g contains itself: g -> g"),
    ],
)
def test_what_cannot_be_resolved_says_why(folder: Path, text: str, reason: str, message: str) -> None:
    write_yaml(folder, "g.yaml", text)
    with pytest.raises(EvaluationError, match=message) as raised:
        resolve(folder, "g")
    assert raised.value.reason == reason


def test_an_unknown_name_offers_the_closest(folder: Path) -> None:
    with pytest.raises(EvaluationError, match="unknown task 'leters'; did you mean 'letters'") as raised:
        resolve(folder, "leters")
    assert raised.value.reason == "UNKNOWN_TASK"


def test_an_unknown_name_may_be_in_a_file_that_could_not_be_read(folder: Path) -> None:
    write_yaml(folder, "z.yaml", "task: broken1\n  bad: [\n")
    write_yaml(folder, "y.yaml", "task: broken2\ninclude: gone.yaml\n")
    write_yaml(folder, "again.yaml", "task: a\n")  # unused, and yet all of it is known
    write_yaml(folder, "last.yaml", f"task: z\ntag: {'x ' * 5000}\n  bad: [\n")
    told = describe_unknown("broken3", TaskIndex.scan([folder], include_defaults=False))
    assert told.startswith("unknown task 'broken3'; it may be in what could not be read (")
    assert told.count(f"{folder / 'y.yaml'}: include 'gone.yaml': no such file") == 1
    assert told.count(str(folder / "z.yaml")) == 1
    assert "again.yaml" not in told
    assert len(told) < 1500
    for number in range(20):
        write_yaml(folder, f"more{number}.yaml", "[")
    index = TaskIndex.scan([folder], include_defaults=False)
    told = describe_unknown("more19", index)
    assert f"could not be read ({folder / 'more19.yaml'}: not valid YAML" in told, "the likeliest first"
    assert "and 20 more); " in told
    assert "no task matches the pattern 'brok*'; it may be in what could not" in describe_unknown("brok*", index)
    # Where a job loads its tasks nobody takes paths out of what is told.
    with pytest.raises(EvaluationError, match=r"could not be read \(more19.yaml; ") as raised:
        resolve(folder, "more19")
    assert str(folder) not in raised.value.message


def test_a_reason_is_told_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / f"a-folder-of  {'-'.join('xy' * 50)}"
    write_yaml(folder, "a.yaml", f"task: a\ninclude: [{'b' * 150}.yaml]\n")
    write_yaml(folder, "c.yaml", f"task: c\ninclude: [{'d' * 300}.yaml]\n")  # longer than a file's name can be
    told = describe_unknown("nope", TaskIndex.scan([folder], include_defaults=False))
    assert f"({folder / 'a.yaml'}: include '{'b' * 150}.yaml': no such file" in told
    assert "; c.yaml); " in told


def test_of_broken_files_outside_the_include_paths_only_the_names_are_told(tmp_path: Path) -> None:
    given, other = tmp_path / "given", tmp_path / "other"
    write_yaml(given, "theirs.yaml", "task: [\n")
    hidden = write_yaml(other, "machine.yaml", "task: [\n")
    index = TaskIndex.scan([given], include_defaults=False)
    elsewhere = TaskIndex.scan([other], include_defaults=False).problems()
    message = describe_unknown("nope", TaskIndex({}, {}, [*elsewhere, *index.problems()], [given]))
    assert message.index("theirs.yaml: not valid") < message.index("machine.yaml); ")
    assert str(hidden.parent) not in message


def test_groups_are_resolved_with_their_members_outer_ones_first(folder: Path) -> None:
    write_yaml(folder, "inner.yaml", "group: inner\ntask: [a, {task: a, repeats: 2}]\nmetadata: {version: 1}\n")
    write_yaml(folder, "outer.yaml", "group: outer\ntask: [c, inner, {group: within, task: [b]}]\n")
    index = TaskIndex.scan([folder], include_defaults=False)
    groups = resolve_request(("outer",), index).groups
    assert [(group.name, group.members) for group in groups] == [
        ("outer", ("c", "inner", "within")),
        ("inner", ("a", "a-1")),
        ("within", ("b",)),
    ]
    assert groups[1].values["metadata"] == {"version": 1}
