"""The index: which names there are, without running any task's code."""

from __future__ import annotations

from pathlib import Path

from lmms_eval_grpc.engine.tasks.index import TaskIndex
from tests.support.task_files import write_yaml


def scan(*folders: Path) -> TaskIndex:
    return TaskIndex.scan(folders, include_defaults=False)


def test_shipped_tasks_are_found_by_default() -> None:
    index = TaskIndex.scan()
    digits = index.get("handwritten_digits")
    assert digits is not None
    assert (digits.kind, digits.output_type) == ("task", "generate_until")
    assert index.problems() == ()


def test_entries_are_sorted_and_of_four_kinds(tmp_path: Path) -> None:
    write_yaml(tmp_path, "b.yaml", "task: b\ntag: [letters, all]\noutput_type: multiple_choice\n")
    write_yaml(tmp_path, "a.yaml", "task: a\ngroup: letters\nmetadata: {description: The  first\n  letter.}\n")
    write_yaml(tmp_path, "g.yaml", "group: some\ntask: [b, {task: a, num_fewshot: 1}]\n")
    write_yaml(tmp_path, "p.yaml", "task: p\nclass: !function nowhere.Task\n")
    write_yaml(tmp_path, "notes.yaml", "title: nothing to do with tasks\n")
    write_yaml(tmp_path, "template_yaml", "task: ignored\n")
    entries = {entry.name: entry for entry in scan(tmp_path).entries()}
    assert list(entries) == ["a", "all", "b", "letters", "p", "some"]
    assert [entry.kind for entry in entries.values()] == ["task", "tag", "task", "tag", "python_task", "group"]
    assert entries["a"].description == "The first letter."
    assert entries["a"].tags == ("letters",)
    assert entries["b"].output_type == "multiple_choice"
    assert entries["letters"].members == ("a", "b")
    assert entries["letters"].source is None
    assert entries["some"].members == ("b", "a")
    assert entries["some"].source == str(tmp_path / "g.yaml")


def test_a_tag_in_an_included_template_reaches_every_file_that_includes_it(tmp_path: Path) -> None:
    write_yaml(tmp_path, "_template_yaml", "tag: family\noutput_type: multiple_choice\n")
    write_yaml(tmp_path, "one.yaml", "include: _template_yaml\ntask: one\n")
    write_yaml(tmp_path, "two.yaml", "include: _template_yaml\ntask: two\n")
    index = scan(tmp_path)
    assert index.expand("family") == ("one", "two")
    entry = index.get("one")
    assert entry is not None
    assert entry.output_type == "multiple_choice"


def test_no_task_code_runs(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    write_yaml(tmp_path, "t.yaml", "task: t\nprocess_results: !function utils.process\nclass: !function utils.Task\n")
    assert scan(tmp_path).get("t") is not None
    assert not (tmp_path / "ran").exists()


def test_the_first_folder_wins_and_the_loser_is_reported(tmp_path: Path) -> None:
    first = write_yaml(tmp_path / "1", "t.yaml", "task: t\n")
    second = write_yaml(tmp_path / "2", "t.yaml", "task: t\n")
    index = scan(tmp_path / "1", tmp_path / "2")
    entry = index.get("t")
    assert entry is not None
    assert entry.source == str(first)
    (problem,) = index.problems()
    assert problem.path == second
    assert str(first) in problem.reason
    assert str(problem).count(str(second)) == 1


def test_a_later_folder_neither_extends_a_tag_nor_takes_its_name(tmp_path: Path) -> None:
    write_yaml(tmp_path / "1", "a.yaml", "task: a\ntag: x\n")
    write_yaml(tmp_path / "2", "b.yaml", "task: b\ntag: x\n")
    write_yaml(tmp_path / "2", "x.yaml", "task: x\n")
    index = scan(tmp_path / "1", tmp_path / "2")
    assert index.expand("x") == ("a",)
    assert [problem.path.name for problem in index.problems()] == ["b.yaml", "x.yaml"]


def test_within_a_folder_the_first_file_in_sorted_order_wins(tmp_path: Path) -> None:
    for folder in ("z", "a", "m"):
        write_yaml(tmp_path / folder, "t.yaml", "task: t\n")
    index = scan(tmp_path)
    entry = index.get("t")
    assert entry is not None
    assert entry.source == str(tmp_path / "a" / "t.yaml")
    assert [problem.path.parent.name for problem in index.problems()] == ["m", "z"]


def test_one_folder_given_twice_is_no_conflict(tmp_path: Path) -> None:
    write_yaml(tmp_path, "t.yaml", "task: t\ntag: x\n")
    index = scan(tmp_path, tmp_path)
    assert index.problems() == ()
    assert index.expand("x") == ("t",)


def test_broken_files_are_reported_and_do_not_stop_the_scan(tmp_path: Path) -> None:
    write_yaml(tmp_path, "bad.yaml", "task: [unclosed\n")
    write_yaml(tmp_path, "list.yaml", "- task: x\n")
    write_yaml(tmp_path, "nogroup.yaml", "task: [good]\n")
    write_yaml(tmp_path, "noinclude.yaml", "include: gone\ntask: y\n")
    write_yaml(tmp_path, "odd.yaml", "task: z\ntag: 3\n")
    (tmp_path / "latin.yaml").write_bytes(b"task: caf\xe9\n")
    write_yaml(tmp_path, "good.yaml", "task: good\n")
    index = scan(tmp_path, tmp_path / "missing")
    assert [entry.name for entry in index.entries()] == ["good"]
    reasons = {problem.path.name: problem.reason for problem in index.problems()}
    assert set(reasons) == {
        "bad.yaml", "list.yaml", "nogroup.yaml", "noinclude.yaml", "odd.yaml", "latin.yaml", "missing",
    }  # fmt: skip
    assert "line 2" in reasons["bad.yaml"]
    assert "mapping" in reasons["list.yaml"]
    assert "gone" in reasons["noinclude.yaml"]
    assert reasons["missing"] == "no such folder"
    assert not [problem for problem in index.problems() if str(problem).count(str(problem.path)) != 1]


def test_expand_gives_leaves_in_order_once_each(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_yaml(tmp_path, f"{name}.yaml", f"task: {name}\ntag: t_{name}\n")
    write_yaml(tmp_path, "g.yaml", "group: outer\ntask: [c, inner, t_a, c]\n")
    write_yaml(tmp_path, "h.yaml", "group: inner\ntask: [b, outer]\n")
    index = scan(tmp_path)
    assert index.expand("outer") == ("c", "b", "a")
    assert index.expand("b") == ("b",)
    assert index.expand("t_[ab]") == ("a", "b")
    assert index.expand("nothing") == ()
    assert index.expand("noth*") == ()


def test_closest_names_are_offered_whatever_their_case(tmp_path: Path) -> None:
    for name in ("mmmu_val", "MMStar", "docvqa_val", "ocrbench", "ai2d"):
        write_yaml(tmp_path, f"{name}.yaml", f"task: {name}\n")
    index = scan(tmp_path)
    assert index.closest("mmmu_vall")[0] == "mmmu_val"
    assert index.closest("mmstar") == ("MMStar",)
    assert index.closest("ocr") == ("ocrbench",)
    assert index.closest("docvqa") == ("docvqa_val",)
    for far in ("zzzzzz", "nada"):
        assert index.closest(far) == ()
