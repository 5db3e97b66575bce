"""2. YAML files: precedence of includes, working directory first, shallow merge, ``!function`` in templates.

``golden_yaml.json`` holds a small tree and what lmms-eval 0.7.3 reads from it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.tasks.functions import Sources, resolve_functions
from lmms_eval_grpc.engine.tasks.yaml_loader import YamlReader
from tests.support.task_files import write_yaml

GOLDEN = json.loads(Path(__file__).with_name("golden_yaml.json").read_text())


@pytest.mark.parametrize("case", sorted(GOLDEN["expected"]))
def test_includes_merge_as_in_lmms_eval(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in GOLDEN["files"].items():
        write_yaml(tmp_path, name, text)
    directory, _, file = case.partition(" ")
    monkeypatch.chdir(tmp_path / directory)
    read = YamlReader().read(tmp_path / file)
    assert json.loads(json.dumps(read).replace(str(tmp_path.resolve()), "ROOT")) == GOLDEN["expected"][case]


def test_a_function_in_a_template_comes_from_the_templates_folder(tmp_path: Path) -> None:
    for folder in ("shared", "task"):
        write_yaml(tmp_path, f"{folder}/utils.py", f"def where(doc):\n    return {folder!r}\n")
    write_yaml(tmp_path, "shared/template", "doc_to_text: !function utils.where\n")
    write_yaml(tmp_path, "task/t.yaml", "include: ../shared/template\ntask: t\ndoc_to_target: !function utils.where\n")
    values = resolve_functions(YamlReader().read(tmp_path / "task" / "t.yaml"), Sources())
    assert (values["doc_to_text"]({}), values["doc_to_target"]({})) == ("shared", "task")
