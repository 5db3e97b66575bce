"""Every one-liner of docs/terminal.md runs against a real server, and both programs are shown the same request."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.end_to_end.conftest import ServerProcess

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "terminal.md").read_text()
PROMISED = {
    "--list-methods": "EvaluationService/Evaluate",
    "list": "EvaluationService.Evaluate",
    "describe": "message EvaluationSpec",
    "GetServerInfo": '"version"',
    "ListModels": '"name": "huggingface"',
    "ListTasks": '"name": "handwritten_digits"',
    "Evaluate": r'"JOB_STATE_|\{\s*\}',
    "WatchJob": '"state": "JOB_STATE_COMPLETED"',
    "GetJob": '"exact_match"',
    "ListJobs": '"run": "sft-7"',
    "QueueStatus": '"accepting": true',
    "StreamSamples": '"filtered(R|_r)esponses"',
    "StreamLogs": '"end(O|_o)ffset"',
    "CancelJob": '"JOB_STATE_(CANCELLING|CANCELLED)"',
    "Check": '"status": "SERVING"',
}
"""By method, or by what else is asked for: what the answer must hold."""


class OneLiner(NamedTuple):
    program: str
    command: str
    asks: str
    """The method, or what else is asked for."""
    data: dict[str, object] | None


def one_liners() -> list[OneLiner]:
    found = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        for command in re.split(r"^(?=buf curl|grpcurl)", block, flags=re.MULTILINE)[1:]:
            words = shlex.split(command)
            asks = next(word for word in reversed(words) if word in PROMISED or word.split("/")[-1] in PROMISED)
            data = next((words[place + 1] for place, word in enumerate(words) if word in ("-d", "--data")), None)
            found.append(OneLiner(words[0], command, asks.split("/")[-1], json.loads(data) if data else None))
    return found


def test_the_page_shows_both_programs_the_same_requests() -> None:
    methods = [line for line in one_liners() if line.asks[0].isupper()]
    of_buf, of_grpcurl = (
        [(line.asks, line.data) for line in methods if line.program == program] for program in ("buf", "grpcurl")
    )
    assert of_buf == of_grpcurl
    assert {asks for asks, _ in of_buf} == {name for name in PROMISED if name[0].isupper()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


@pytest.mark.parametrize("program", ["buf", "grpcurl"])
def test_every_one_liner_works(program: str, running: ServerProcess, tiny_checkpoint: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if shutil.which(program, path=environment["PATH"]) is None:
        pytest.skip(f"needs {program} on the path; neither PyPI, npm nor Debian has an official one")

    def answer(command: str, job_id: str) -> str:
        for placeholder, value in (
            ("localhost:50051", running.address),
            ("/path/to/checkpoint", str(tiny_checkpoint)),
            ("JOB_ID", job_id),
        ):
            command = command.replace(placeholder, value)
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    job_id = ""
    for line in one_liners():
        if line.program != program:
            continue
        if line.asks == "CancelJob":
            with running.client() as client:  # the last of several: it still waits when it is cancelled
                arguments = ("huggingface", ["handwritten_digits"], {"pretrained": str(tiny_checkpoint)})
                job_id = [client.evaluate(*arguments)["job_id"] for _ in range(4)][-1]
        output = answer(line.command, job_id)
        assert re.search(PROMISED[line.asks], re.sub(r'":\s+', '": ', output)), f"{line.command}\n{output}"
        if line.asks == "Evaluate" and not job_id:
            (job_id,) = re.findall(r'"(?:jobId|job_id)":\s*"(\w+)"', output)
