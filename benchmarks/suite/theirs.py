"""lmms-eval 0.7.3, from PyPI, unchanged: its command line and its HTTP server."""

from __future__ import annotations

import http
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.suite.inputs import MODEL, REFERENCE, Inputs
from benchmarks.suite.outcome import Outcome, of_files
from benchmarks.suite.processes import Failed, environment, run, stop, tail, tree_cpu

POLL = 0.02
"""Seconds between two questions after a job. lmms-eval's own client waits 5 s, which would be added to every job."""


def command(
    inputs: Inputs,
    folder: Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    more: Sequence[str] = (),
) -> list[str]:
    """The command line of one evaluation that keeps its samples."""
    model_args = ",".join(f"{name}={value}" for name, value in inputs.model_args.items())
    words = [
        *(REFERENCE, "-m", "lmms_eval", "--model", MODEL, "--model_args", model_args, "--device", "cpu"),
        *("--include_path", inputs.tasks, "--tasks", ",".join(tasks), "--output_path", folder / "output"),
        "--log_samples",
        *(() if limit is None else ("--limit", limit)),
        *(() if batch_size is None else ("--batch_size", batch_size)),
        *more,
    ]
    return [str(word) for word in words]


def command_line(inputs: Inputs, folder: Path, tasks: Sequence[str], **options: Any) -> tuple[float, float]:
    """Wall and CPU seconds of one whole evaluation; options as those of :func:`command`."""
    return run(command(inputs, folder, tasks, **options), folder, environment(folder))


def package() -> Path:
    """The folder of its package."""
    return next((REFERENCE.parent.parent / "lib").glob("python3*/site-packages/lmms_eval"))


class Server:
    """Its HTTP server while it runs."""

    def __init__(self, process: subprocess.Popen[bytes] | None, port: int, inputs: Inputs) -> None:
        self._process = process
        self.port = port
        self._connection: http.client.HTTPConnection | None = None
        self._inputs = inputs

    def cpu(self) -> float:
        assert self._process is not None
        return tree_cpu(self._process.pid)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer, over a connection that is kept, as its own client does; the server closes it after some idle
        seconds."""
        try:
            return self._ask(path, body)
        except ConnectionError:
            self._connection = None
            return self._ask(path, body)

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        self._connection.request("GET" if data is None else "POST", path, data, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != http.HTTPStatus.OK:
            raise Failed(f"lmms-eval's server: {response.status} to {path}: {answer[:500]!r}")
        return json.loads(answer)

    def submit(self, tasks: Sequence[str], checkpoint: Path | None = None, **more: Any) -> str:
        # Its server takes a device and ignores it; as an argument of the model it is heeded.
        model_args = self._inputs.model_args | {"device": "cpu"}
        if checkpoint is not None:
            model_args["pretrained"] = str(checkpoint)
        body = {"model": MODEL, "model_args": model_args, "tasks": list(tasks), **more}
        return str(self.ask("/evaluate", body)["job_id"])

    def wait(self, job_id: str) -> dict[str, Any]:
        """The job once it has completed. Raises Failed."""
        while True:
            job: dict[str, Any] = self.ask(f"/jobs/{job_id}")
            if job["status"] == "completed":
                return job
            if job["status"] in ("failed", "cancelled"):
                raise Failed(f"lmms-eval's job: {job['error']}")
            time.sleep(POLL)

    def outcome(self, job_id: str) -> Outcome:
        """What a job that has completed found; its server answers with paths of its disk."""
        (files,) = self.ask(f"/jobs/{job_id}")["result"].values()
        return of_files(Path(files["results"]), map(Path, files["samples"]))


@contextmanager
def server(inputs: Inputs, folder: Path) -> Iterator[Server]:
    """Its server. It has no include path: our tasks are put into its package while it runs."""
    place = package() / "tasks" / "lmms_eval_grpc_benchmark"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path in (*inputs.tasks.glob("*.yaml"), *inputs.tasks.glob("*.py")):
        shutil.copy(path, place)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "server.log"
    command = [str(REFERENCE), "-m", "lmms_eval.launch_server", "--host", "127.0.0.1", "--port", str(port)]
    # It never removes the folders that it makes for its jobs.
    variables = environment(folder, TMPDIR=str(folder))
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env=variables)
    try:
        found = Server(process, port, inputs)
        deadline = time.monotonic() + 120
        while True:
            try:
                found.ask("/health")
                break
            except OSError as error:
                found = Server(process, port, inputs)
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"lmms-eval's server: {tail(log)}") from error
                time.sleep(0.005)
        yield found
    finally:
        stop(process)
        shutil.rmtree(place, ignore_errors=True)
