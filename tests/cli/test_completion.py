"""The scripts complete the command line in the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Rig, Terminal, run_command, run_on_terminal
from tests.client.scripted_server import ScriptedServer

SHELLS = ("bash", "zsh", "fish")


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The folder of the scripts, with the command beside them."""
    for shell in SHELLS:
        done = run_command("completion", shell)
        assert done.returncode == 0, done.stderr
        (tmp_path / f"completion.{shell}").write_text(done.stdout)
    command = tmp_path / "bin" / "lmms-eval-grpc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmms_eval_grpc "$@"\n')
    command.chmod(0o755)
    return tmp_path


BASH = """
source {folder}/completion.bash
COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}
read -ra COMP_WORDS <<< "$COMP_LINE"
[[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9
_shtab_lmms_eval_grpc lmms-eval-grpc "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def complete(shell: str, line: str, folder: Path, address: str = "127.0.0.1:1") -> list[str]:
    """What the shell offers at the end of ``line``."""
    need(shell)
    env = {
        "PATH": f"{folder}/bin:/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "HOME": str(folder),
        "LMMS_EVAL_GRPC_ADDRESS": address,
        "TERM": "xterm",
    }
    script = BASH if shell == "bash" else 'source {folder}/completion.fish; complete --do-complete "{line}"'
    done = subprocess.run(
        [shell, *(("--norc",) if shell == "bash" else ()), "-c", script.format(folder=folder, line=line)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [offered.split("\t")[0].strip() for offered in done.stdout.splitlines() if offered.strip()]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_commands_flags_and_choices(shell: str, scripts: Path) -> None:
    assert {"submit", "watch", "top"} <= set(complete(shell, "lmms-eval-grpc ", scripts))
    assert complete(shell, "lmms-eval-grpc canc", scripts) == ["cancel"]
    assert complete(shell, "lmms-eval-grpc submit --model_a", scripts) == ["--model_args"]
    assert complete(shell, "lmms-eval-grpc submit --model-a", scripts) == []
    assert complete(shell, "lmms-eval-grpc serve --state-d", scripts) == ["--state-dir"]
    assert set(complete(shell, "lmms-eval-grpc completion ", scripts)) >= set(SHELLS)


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_names_come_from_the_server(shell: str, scripts: Path, rig: Rig) -> None:
    need(shell)
    job_id = rig.submit()
    assert complete(shell, f"lmms-eval-grpc watch {job_id[:6]}", scripts, rig.address) == [job_id]
    assert "handwritten_digits" in complete(shell, "lmms-eval-grpc submit --tasks handw", scripts, rig.address)
    assert "idefics3" in complete(shell, "lmms-eval-grpc submit --model ide", scripts, rig.address)


def test_zsh_completes_at_its_prompt(scripts: Path, rig: Rig) -> None:
    need("zsh")
    job_id = rig.submit()
    (scripts / "completion.zsh").rename(scripts / "_lmms-eval-grpc")
    (scripts / ".zshrc").write_text(
        f"PATH={scripts}/bin:$PATH\nPS1='ready> '\nfpath=({scripts} $fpath)\nautoload -Uz compinit && compinit -u -D\n"
    )
    env = rig.environment(HOME=str(scripts), ZDOTDIR=str(scripts))

    def type_and_tab(terminal: Terminal) -> None:
        terminal.wait_for("ready>")
        terminal.type(f"lmms-eval-grpc job {job_id[:6]}\t")
        terminal.wait_for(job_id[6:])
        terminal.type("\nexit\n")

    status, _ = run_on_terminal(["zsh", "-i"], env, type_and_tab)
    assert status == 0


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_server_cannot_have_the_shell_run_something(shell: str, scripts: Path) -> None:
    need(shell)
    server = ScriptedServer()
    trap = scripts / "trap"
    server.servicer.tasks = [f"$(>{trap})", f"digits`>{trap}`", "digits;reboot", "digits-plain_1.0"]
    try:
        offered = complete(shell, "lmms-eval-grpc submit --tasks ", scripts, server.address)
    finally:
        server.stop()
    assert [name for name in offered if "digits" in name] == ["digits-plain_1.0"]
    assert not any("trap" in name for name in offered)
    assert not trap.exists()


def test_without_a_server_names_are_silent_and_scripts_work(scripts: Path) -> None:
    assert complete("bash", "lmms-eval-grpc submit --model ide", scripts) == []


def test_a_shell_must_be_named() -> None:
    done = run_command("completion")
    assert done.returncode == 2
    assert "bash, zsh, fish" in done.stderr
    assert run_command("completion", "csh").returncode == 2
