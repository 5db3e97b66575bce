"""Cancelling a running job stops all its processes, also those that will not listen, and the next job runs."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import ServerProcess, wait_until

HANGING_TASK = """
task: hanging_digits
include: {digits}
doc_to_text: !function hang.doc_to_text
"""
HANGING_FUNCTIONS = """
import subprocess
import time


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    subprocess.Popen(["sleep", "600"])
    time.sleep(600)
"""


@pytest.fixture
def hanging_task(tmp_path: Path) -> Path:
    """A task whose prompts never come, and which starts a process of its own."""
    import lmms_eval_grpc.benchmarks

    digits = Path(lmms_eval_grpc.benchmarks.__path__[0]) / "handwritten_digits" / "handwritten_digits.yaml"
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "hang.py").write_text(HANGING_FUNCTIONS)
    (folder / "hanging_digits.yaml").write_text(HANGING_TASK.format(digits=digits))
    return folder


def test_a_hanging_job_is_cancelled_and_the_queue_goes_on(
    tmp_path: Path, hanging_task: Path, tiny_checkpoint: Path
) -> None:
    server = ServerProcess(tmp_path, "--include-path", str(hanging_task)).start()
    try:
        with server.client() as client:
            arguments = {"model": "idefics3", "model_args": {"pretrained": str(tiny_checkpoint)}}
            hanging = client.evaluate(tasks=["hanging_digits"], **arguments)["job_id"]
            following = client.evaluate(tasks=["handwritten_digits"], limit=2, **arguments)["job_id"]

            def sleepers() -> list[psutil.Process]:
                return [process for process in server.descendants() if process.name() == "sleep"]

            wait_until(lambda: bool(sleepers()), 120, lambda: f"the job never hung: {server.log()}")
            (sleeper,) = sleepers()
            worker = sleeper.parent()
            assert worker is not None

            asked = time.monotonic()
            client.cancel_job(hanging, reason="wrong checkpoint")
            states = [e.state_change.state for e in client.watch_job(hanging) if e.HasField("state_change")]
            elapsed = time.monotonic() - asked
            print(f"cancelled after {elapsed:.2f} s")

            assert states[-1] == 6  # JOB_STATE_CANCELLED
            gone = [not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in (sleeper, worker)]
            assert all(gone), "the worker's process group is gone when the job is cancelled"
            # Promised within 2 s; the bound here leaves room for a machine that is busy with other things.
            assert elapsed < 6.0
            assert client.get(hanging).cancel_reason == "wrong checkpoint"
            assert client.wait_for_job(following, verbose=False, timeout=120)["status"] == "completed"
    finally:
        server.stop()
