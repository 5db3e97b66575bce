"""Help is instant, complete, and says what exit codes mean."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lmms_eval_grpc.cli.exit_codes import MEANINGS, ExitCode
from tests.cli.conftest import environment, run_command

COMMANDS = (
    "serve",
    "eval",
    "score",
    "compare",
    "power",
    "submit",
    "watch",
    "jobs",
    "job",
    "cancel",
    "queue",
    "top",
    "pause",
    "resume",
    "priority",
    "drain",
    "gc",
    "samples",
    "logs",
    "tasks",
    "models",
    "info",
    "token",
    "certs",
    "doctor",
    "completion",
    "version",
)
HEAVY = ("grpc", "google.protobuf", "torch", "transformers", "datasets", "numpy", "rich", "yaml")


def imported_by(*words: str) -> list[str]:
    """Which heavy modules the command has imported once it is done."""
    program = (
        "import sys\n"
        "from lmms_eval_grpc.cli import main\n"
        f"code = main({list(words)!r})\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "usage: lmms-eval-grpc" in done.stdout
    return done.stderr.split()


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=lambda words: " ".join(words) or "top")
def test_asking_for_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    assert imported_by(*words, "--help") == []


def test_the_top_help_lists_every_command_and_every_exit_code() -> None:
    text = run_command("--help").stdout
    for name in COMMANDS:
        assert f"\n    {name} " in text
    for code in ExitCode:
        assert f"{code.value}  {MEANINGS[code]}" in text
    assert "LMMS_EVAL_GRPC_ADDRESS" in text


def test_each_flag_is_shown_once_although_it_has_two_spellings() -> None:
    text = run_command("submit", "--help").stdout
    assert "--model_args K=V,…" in text
    assert "--model-args" not in text


def test_serve_shows_the_servers_own_flags() -> None:
    text = run_command("serve", "--help").stdout
    assert "--state-dir" in text
    assert "--max-completed-jobs" in text


def test_without_a_command_there_is_help_and_an_error() -> None:
    done = run_command()
    assert done.returncode == ExitCode.USAGE
    assert "usage: lmms-eval-grpc" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ("launch",),
        ("jobs", "--stat", "queued"),
        ("jobs", "--state", "sleeping"),
        ("jobs", "-n", "0"),
        ("jobs", "--label", "run"),
        ("submit", "--model", "hf"),
        ("samples", "some-job", "-n", "many"),
        ("submit", "--model", "hf", "--tasks", ","),
        ("submit", "--model", "hf", "--tasks", "mme", "--run_timeout", "soon"),
        ("submit", "--model", "hf", "--tasks", "mme", "--model_args", '{"pretrained": '),
        ("submit", "--model", "hf", "--tasks", "mme", "--limit", "some"),
    ],
)
def test_a_wrong_command_line_is_explained(words: tuple[str, ...]) -> None:
    done = run_command(*words)
    assert done.returncode == ExitCode.USAGE
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_versions_are_told_without_a_server() -> None:
    done = run_command("version", "-a", "localhost:1")
    assert done.returncode == 0
    assert done.stdout.startswith("lmms-eval-grpc ")
    assert "\ngrpcio " in done.stdout
    assert run_command("--version").stdout.split()[0] == "lmms-eval-grpc"


def test_all_values_that_are_refused_are_told_at_once() -> None:
    done = run_command(
        *("submit", "--model", "m", "--limit", "x", "--offset", "y", "--max_tokens", "z"),
        *("--agentic_trace_mode", "loud", "--label", "no"),
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    *faults, hint = done.stderr.splitlines()
    assert hint == "see lmms-eval-grpc submit --help"
    named = [fault.split("argument ", 1)[-1].split("/")[0].split(":")[0] for fault in faults]
    assert named[:-1] == ["--limit", "--offset", "--max_tokens", "--agentic_trace_mode", "--label"]
    assert "are required: --tasks" in faults[-1]
