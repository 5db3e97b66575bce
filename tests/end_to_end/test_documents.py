"""The documents say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lmms_eval_grpc.cli.exit_codes import MEANINGS
from lmms_eval_grpc.cli.parser import build_parser
from lmms_eval_grpc.server.config import settings

ROOT = Path(__file__).resolve().parents[2]


def rows(document: str) -> list[list[str]]:
    """The cells of every table row of a document."""
    text = (ROOT / "docs" / document).read_text()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_every_setting_is_documented_with_its_help_and_default() -> None:
    documented = {cells[0].strip("`"): cells for cells in rows("configuration.md") if cells[0].startswith("`")}
    assert set(documented) == {setting.name for setting in settings()}
    for setting in settings():
        _, flag, variable, default, text = documented[setting.name]
        assert (flag, variable, text) == (f"`{setting.flag}`", f"`{setting.variable}`", setting.rules["help"])
        shown = ", ".join(map(str, setting.default)) if setting.repeated else setting.default
        assert default == ("" if shown in (None, "") else f"`{shown}`")


def test_every_exit_code_is_documented() -> None:
    documented = {int(cells[0]): cells[1] for cells in rows("command_line.md") if cells[0].isdigit()}
    assert documented == {int(code): meaning for code, meaning in MEANINGS.items()}


def test_every_command_is_documented() -> None:
    named = set(re.findall(r"^\| (.*?) \|", (ROOT / "docs/command_line.md").read_text(), re.MULTILINE))
    documented = {name for cell in named for name in re.findall(r"`([a-z]+)(?: JOB)?(?: N)?`", cell)}
    (subcommands,) = [action for action in build_parser([])._actions if action.dest == "command"]
    assert subcommands.choices is not None
    assert documented == set(subcommands.choices)


def test_every_decision_is_listed_under_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^- \[(\d+)\]\((.+)\) (.+)$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = [(path.name[:4], path.name, path.read_text().splitlines()[0]) for path in sorted(folder.glob("0*.md"))]
    assert [(number, name, f"# {int(number)}. {title}") for number, name, title in listed] == titles


def test_links_between_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"]
    for document in [*documents, ROOT / "clients/README.md", *ROOT.glob("clients/*/README.md")]:
        for target, _, place in re.findall(r"\[[^\]]+\]\(([^)#\s]*)(#([^)\s]+))?\)", document.read_text()):
            if target.startswith("http"):
                continue
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name}: {target}"
            if place:
                assert place in places(path), f"{document.name}: {target}#{place}"


def places(document: Path) -> set[str]:
    """What a link can name of a document: its headings, as forges spell them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_model_and_its_arguments_are_documented() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "document_models.py", "--check"], timeout=60)
    assert done.returncode == 0, "run scripts/document_models.py"
