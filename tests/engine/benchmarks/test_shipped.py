"""What ships: every promised name, files that load, code that needs nothing but the base install."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.tasks.config import parse_task_config
from lmms_eval_grpc.engine.tasks.functions import Sources, resolve_functions
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from lmms_eval_grpc.engine.tasks.resolve import resolve_tasks
from lmms_eval_grpc.engine.tasks.yaml_loader import YamlReader
from tests.engine.benchmarks.made import SHIPPED

TASKS = [
    "ai2d",
    "chartqa",
    "docvqa_val",
    "hallusion_bench_image",
    "handwritten_digits",
    "infovqa_val",
    "librispeech_test_clean",
    "mmbench_en_dev",
    "mme",
    "mmmu_val",
    "mmstar",
    "ocrbench",
    "pope",
    "realworldqa",
    "scienceqa_img",
    "seedbench",
    "textvqa_val",
    "videomme",
]
GROUPS = ["librispeech", "mathvista_testmini", "mvbench", "pope_full", "scienceqa_full"]

FILES = sorted(path for path in SHIPPED.rglob("*.yaml") if path.stem != "template")
MODULES = sorted(SHIPPED.rglob("*.py"))


def test_every_promised_name_is_there() -> None:
    index = TaskIndex.scan()
    ours = {entry.name: entry for entry in index.entries() if Path(entry.source or "").is_relative_to(SHIPPED)}
    assert {name: ours[name].kind for name in TASKS} == dict.fromkeys(TASKS, "task")
    assert {name: ours[name].kind for name in GROUPS} == dict.fromkeys(GROUPS, "group")
    assert not [problem for problem in index.problems() if problem.path.is_relative_to(SHIPPED)]
    assert all(
        entry.description for name, entry in ours.items() if entry.kind == "task" and name != "handwritten_digits"
    )


def test_no_part_of_a_suite_goes_by_the_suites_name() -> None:
    """Tags of lmms-eval's name whole suites; ours would hide the rest of one where lmms-eval is installed."""
    assert {YamlReader().read(path).get("tag") for path in FILES} == {None, "digits"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_loads_but_for_its_data(path: Path) -> None:
    values = YamlReader().read(path)
    if isinstance(values["task"], list):
        assert TaskIndex.scan().expand(values["group"]) == tuple(values["task"])
        return
    (resolved,) = resolve_tasks((str(path),), TaskIndex.scan())
    config = parse_task_config(resolve_functions(resolved.values, Sources()), resolved.source)
    assert config.task == path.stem
    assert callable(config.doc_to_text)
    assert config.metric_list


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_functions_need_the_base_install_only(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "lmms_eval_grpc", "transformers"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert {name.partition(".")[0] for name in names} <= allowed


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda folder: folder.name)
def test_every_family_names_source_licence_and_metric(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert all(word in text for word in ("Metric", "Source", "icence", "https://")), folder.name
