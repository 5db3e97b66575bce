"""The commands that documents show for a server that others call are run, with only addresses and folders put in."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from pathlib import Path

from lmms_eval_grpc.cli.exit_codes import ExitCode
from tests.cli.conftest import PATIENCE, command, environment, serving

ROOT = Path(__file__).resolve().parents[2]
SECURITY = ROOT / "docs" / "security.md"


def block(document: Path, heading: str, language: str = "bash") -> str:
    """The first fenced block of a language in a section."""
    (section,) = re.findall(rf"^##+ {re.escape(heading)}$(.*?)(?=^##)", document.read_text(), re.MULTILINE | re.DOTALL)
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def here(text: str, folder: Path) -> str:
    """``text`` with this machine's address and folders."""
    for name in ("checkpoints", "results"):
        (folder / name).mkdir(exist_ok=True)
    return text.replace("0.0.0.0", "127.0.0.1").replace("/srv", str(folder))


def run(script: str, folder: Path) -> list[str]:
    """What each command prints, but for `serve`, whose server runs until all are done."""
    printed = []
    with contextlib.ExitStack() as stack:
        address = ""
        for line in here(script.replace("\\\n", ""), folder).splitlines():
            program, *words = shlex.split(line, comments=True)
            if program == "umask":
                continue
            assert program == "lmms-eval-grpc"
            if words[0] == "serve":
                address = stack.enter_context(serving(words, folder))
                continue
            *words, _, target = words if ">" in words else [*words, "", ""]
            words = [address if word == "grpcs://eval-server:50051" else word for word in words]
            done = subprocess.run(
                command(*words), env=environment(), cwd=folder, capture_output=True, text=True, timeout=PATIENCE
            )
            assert done.returncode == ExitCode.OK, done.stderr
            printed.append(done.stdout)
            if target:
                (folder / target).write_text(done.stdout)
        assert address.startswith("grpcs://")
    return printed


def test_a_team_in_four_commands(tmp_path: Path) -> None:
    *_, told = run(block(ROOT / "README.md", "Safe for a team in four commands"), tmp_path)
    assert "alice (submit)" in told


def test_a_server_for_a_team(tmp_path: Path) -> None:
    settings = here(block(SECURITY, "A server for a team", "yaml"), tmp_path)
    (tmp_path / "server.yaml").write_text(settings)
    *_, told = run(block(SECURITY, "A server for a team"), tmp_path)
    assert "alice (submit)" in told
    assert (tmp_path / "audit.jsonl").exists()


def test_callers_with_certificates(tmp_path: Path) -> None:
    init, client, told = run(block(SECURITY, "Callers with certificates"), tmp_path)
    assert "tls/server.pem" in init
    assert "tls/clients/alice.pem" in client
    assert "alice (admin)" in told
