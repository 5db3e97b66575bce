"""Listings without a server: from files and the registry, without running any task's code or importing a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.cli import requirements
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.main import main
from tests.cli.conftest import TASK, environment
from tests.support.task_files import write_yaml

HEAVY = ("torch", "transformers", "datasets")


def listed(tmp_path: Path, *words: str) -> Any:
    """What the command prints as JSON, where no server can be reached; it must not import anything heavy."""
    program = (
        "import sys\n"
        "from lmms_eval_grpc.cli import main\n"
        f"code = main({[*words, '--json', '-a', 'localhost:1']!r})\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    env = environment(XDG_CACHE_HOME=str(tmp_path / "cache"), LMMS_EVAL_GRPC_LMMS_EVAL="none")
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == ExitCode.OK, done.stderr
    assert done.stderr.strip() == ""
    return json.loads(done.stdout)


def kinds(document: Any) -> set[str]:
    return {task["kind"] for task in document["tasks"]}


def test_lmms_evals_words_for_listings(tmp_path: Path) -> None:
    everything = listed(tmp_path, "tasks", "list")
    assert kinds(everything) == {"TASK_KIND_TASK", "TASK_KIND_GROUP", "TASK_KIND_TAG"}
    assert listed(tmp_path, "tasks", "--local") == everything
    for word, kind in (("groups", "GROUP"), ("tags", "TAG"), ("subtasks", "TASK")):
        some = listed(tmp_path, "tasks", word)
        assert some["tasks"] == [task for task in everything["tasks"] if task["kind"] == f"TASK_KIND_{kind}"]


def test_filters_and_folders(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "utils.py").write_text("raise SystemExit('task code must not run')\n")
    keys = "task: mine_1\ndataset_path: parquet\ntest_split: test\ndoc_to_text: !function utils.ask\ntag: mine_all\n"
    write_yaml(tmp_path / "mine", "mine.yaml", keys)
    found = listed(tmp_path, "tasks", "mine", "--include_path", str(tmp_path / "mine"))
    assert [task["name"] for task in found["tasks"]] == ["mine_1", "mine_all"]
    (digits,) = listed(tmp_path, "tasks", "*written*", "--local", "--kind", "task")["tasks"]
    assert digits["name"] == TASK


def test_models(tmp_path: Path) -> None:
    models = {model["name"]: model for model in listed(tmp_path, "models", "--local")["models"]}
    assert "hf" in models["huggingface"]["aliases"]
    assert models["idefics3"]["available"]


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "--tasks", "mme"),
        ("score", "x"),
        ("compare", "x", "y"),
        ("power",),
        ("tasks", "list"),
        ("models", "--local"),
    ],
)
def test_without_the_engines_packages_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    assert main(words) == ExitCode.USAGE
    assert 'pip install "lmms-eval-grpc[server]"' in capsys.readouterr().err
