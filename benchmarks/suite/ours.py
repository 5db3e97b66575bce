"""This project: its command line and its server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.suite.inputs import MODEL, ROOT, Inputs
from benchmarks.suite.outcome import Outcome
from benchmarks.suite.processes import Failed, environment, name_of, run, stop, tail, tree, tree_cpu
from lmms_eval_grpc import EvalClient


def command_line(
    inputs: Inputs,
    folder: Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int | str | None = None,
    more: Sequence[str] = (),
) -> tuple[float, float]:
    """Wall and CPU seconds of one whole evaluation without a server."""
    model_args = ",".join(f"{name}={value}" for name, value in inputs.model_args.items())
    command = [
        *(sys.executable, "-m", "lmms_eval_grpc", "eval", "--model", MODEL, "--model_args", model_args),
        *("--device", "cpu", "--include_path", inputs.tasks, "--tasks", ",".join(tasks)),
        *("--output_path", folder / "output", "--log_samples"),
        *(() if limit is None else ("--limit", str(limit))),
        *(() if batch_size is None else ("--batch_size", str(batch_size))),
        *more,
    ]
    return run(command, folder, _environment(folder))


class Server:
    """Our server while it runs."""

    def __init__(self, process: subprocess.Popen[bytes] | None, address: str, inputs: Inputs) -> None:
        self._process = process
        self.address = address
        self.client = EvalClient(address)
        self._inputs = inputs

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "somebody else's server"
        return self._process

    def cpu(self) -> float:
        return tree_cpu(self.process.pid)

    def workers(self) -> list[psutil.Process]:
        """Of the processes below the server those that run a job: not what they are forked from."""
        return [process for process in tree(self.process.pid) if name_of(process) == "eval-worker"]

    def submit(self, tasks: Sequence[str], checkpoint: Path | None = None, **more: Any) -> str:
        model_args = self._inputs.model_args | ({"pretrained": str(checkpoint)} if checkpoint else {})
        return str(self.client.evaluate(model=MODEL, model_args=model_args, tasks=list(tasks), **more)["job_id"])

    def wait(self, job_id: str) -> Any:
        """The job, as a message, once it has completed. Raises Failed."""
        for _ in self.client.watch_job(job_id):
            pass
        job = self.client.get(job_id)
        if not job.HasField("evaluation_result"):
            raise Failed(f"our job: {job.error.message}\n{job.error.log_tail}")
        return job

    def outcome(self, job_id: str) -> Outcome:
        """What a job that has completed found."""
        found = Outcome()
        for record in self.client.iter_samples(job_id):
            found.answers[record["task"], record["doc_id"]] = record["filtered_responses"][0]
        for task in self.client.get(job_id).evaluation_result.task_results:
            found.scores[task.task] = next(metric.value for metric in task.metrics if metric.name == "exact_match")
        return found

    def wait_warm(self) -> None:
        """Until workers are forked from a process that has imported torch."""
        while not self.client.server_info().template_warm:
            time.sleep(0.02)


@contextmanager
def server(inputs: Inputs, folder: Path, *flags: str, variables: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server with a state folder of its own, ready to take jobs; not yet warm. ``variables``: more of its
    environment."""
    folder.mkdir(parents=True, exist_ok=True)
    address = folder / "address"
    address.unlink(missing_ok=True)
    log = folder / "server.log"
    command = [
        *(sys.executable, "-m", "lmms_eval_grpc", "serve", "--port", "0", "--state-dir", folder / "state"),
        *("--address-file", address, "--include-path", inputs.tasks, "--devices", "cpu", "--torch-threads", "1"),
        *flags,
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_environment(folder) | dict(variables or {}),
        )
    try:
        while not address.exists():
            if process.poll() is not None:
                raise Failed(f"our server: {tail(log)}")
            time.sleep(0.005)
        found = Server(process, address.read_text().strip(), inputs)
        found.client.wait_for_ready(timeout=60)
        yield found
        found.client.close()
    finally:
        stop(process)


def _environment(folder: Path) -> dict[str, str]:
    return environment(folder, PYTHONPATH=str(ROOT))
