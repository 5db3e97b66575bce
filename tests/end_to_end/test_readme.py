"""What the README shows is run, with only addresses and paths put in."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc import EvalClient
from tests.end_to_end.conftest import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str, heading: str) -> list[str]:
    """The fenced blocks of one section."""
    (section,) = re.findall(rf"^### {re.escape(heading)}$(.*?)(?=^##)", README, re.MULTILINE | re.DOTALL)
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run_bash(script: str, folder: Path, server: ServerProcess) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LMMS_EVAL_GRPC_ADDRESS": server.address,
    }
    script = script.replace("localhost:50051", server.address)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def working_folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder with the checkpoint and the tasks that the README names."""
    folder = tmp_path / "work"
    shutil.copytree(tiny_checkpoint, folder / "checkpoints" / "checkpoint-300")
    (folder / "my_tasks").mkdir()
    return folder


def test_the_commands_it_begins_with_exist() -> None:
    (commands,) = re.findall(r"## Two commands on a fresh machine.*?```bash\n(.*?)```", README, re.DOTALL)
    scripts = [line.split()[0] for line in commands.splitlines()]
    assert scripts == ["scripts/quickstart", "scripts/test"]
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_serving_from_python(working_folder: Path, tmp_path: Path) -> None:
    (command,) = blocks("bash", "1. Serve")
    assert command.startswith("lmms-eval-grpc serve --include-path my_tasks/")
    (script,) = blocks("python", "1. Serve")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("50051", str(port))],
        cwd=working_folder,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
    )
    try:
        with EvalClient(f"localhost:{port}") as client:
            client.wait_for_ready(timeout=120)
            assert "handwritten_digits" in client.list_tasks()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_submitting_and_watching_from_a_terminal(server: ServerProcess, working_folder: Path) -> None:
    script, _ = blocks("bash", "2. Submit and watch from a terminal")
    output = run_bash(script, working_folder, server)
    assert "exact_match" in output
    assert "completed" in output


def test_evaluating_and_comparing_without_a_server(server: ServerProcess, working_folder: Path) -> None:
    _, script = blocks("bash", "2. Submit and watch from a terminal")
    output = run_bash(script, working_folder, server)
    assert "exact_match" in output
    assert "not enough evidence" in output


def test_a_training_loop_and_a_watch(
    server: ServerProcess, working_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(working_folder)
    loop, callback = blocks("python", "3. Submit from a training loop")
    (watch,) = blocks("python", "4. Watch instead of polling")
    names: dict[str, Any] = {}
    for script in (loop, watch, callback):
        exec(script.replace("localhost:50051", server.address), names)
    printed = capsys.readouterr().out
    assert re.search(r"^exact_match [\d.]+ \([-\d.]+, [-\d.]+\)$", printed, re.MULTILINE)


def test_any_client_by_reflection(server: ServerProcess, working_folder: Path) -> None:
    (script,) = blocks("bash", "5. From anywhere, without our files")
    with server.client() as client:
        job = client.evaluate("idefics3", ["handwritten_digits"], {"pretrained": "checkpoints/checkpoint-300"}, limit=2,
                              validate_only=True)  # fmt: skip
        assert job is not None
    lines = script.replace("/path/to/checkpoint", str(working_folder / "checkpoints" / "checkpoint-300"))
    first, rest = lines.split('{"job_id": "..."}')
    output = run_bash(first.rsplit("buf curl", 1)[0], working_folder, server)
    assert "EvaluationService/WatchJob" in output
    (job_id,) = re.findall(r'"jobId":\s*"(\w+)"', output)
    watch = "buf curl" + first.rsplit("buf curl", 1)[1] + f'{{"job_id": "{job_id}"}}' + rest
    assert "JOB_STATE_COMPLETED" in run_bash(watch, working_folder, server)
