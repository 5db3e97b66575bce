"""A checkpoint and data that lie on this machine are evaluated without a call over the network."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from tests.cli.conftest import TASK, command

_WATCH = """
import sys

def note(event, arguments):
    if event == "socket.getaddrinfo":
        asked = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked = arguments[1][0]
    else:
        return
    with open({log!r}, "a") as log:
        log.write(f"{{asked}}\\n")

sys.addaudithook(note)
"""


@pytest.mark.parametrize("counts", [False, True], ids=["as-it-is", "with-the-counts-of-datasets"])
def test_nobody_is_asked_over_the_network(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path, *, counts: bool
) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_WATCH.format(log=str(asked)))
    env = {**manners, "PYTHONPATH": str(tmp_path / "site")}
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_UPDATE_DOWNLOAD_COUNTS")
    for name in [name for name in env if name in offline or name.lower().endswith("_proxy")]:
        del env[name]
    if counts:  # shows that the watch sees what there is to see
        env["HF_UPDATE_DOWNLOAD_COUNTS"] = "1"
    model = ("--model", "idefics3", "--model_args", f"pretrained={tiny_checkpoint}")
    words = command("eval", *model, "--tasks", TASK, "--limit", "1", "--output_path", str(tmp_path / "out"))
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == ExitCode.OK, done.stderr
    hosts = set(asked.read_text().split()) if asked.exists() else set()
    assert ("s3.amazonaws.com" in hosts) if counts else not hosts
