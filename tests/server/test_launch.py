"""``launch_server`` as a process of its own, with the real executor."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from lmms_eval_grpc.server.interpreter import tuned_interpreter
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc

PATIENCE = 120.0

SCRIPT = """
from lmms_eval_grpc.server import ServerArgs, launch_server
launch_server(ServerArgs(port=0, state_dir={state!r}, address_file={address!r}, shutdown_grace={grace}, {settings}))
"""

HEAVY = ("torch", "transformers", "datasets", "numpy", "PIL", "accelerate", "pandas", "pyarrow")

REQUESTS = """
import asyncio, json, sys
from lmms_eval_grpc.server.app import EvaluationServer
from lmms_eval_grpc.server import ServerArgs
import grpc.aio
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb, evaluation_service_pb2_grpc as pb_grpc

async def main(state, checkpoint):
    async with EvaluationServer(ServerArgs(port=0, state_dir=state, use_template=False)) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = pb_grpc.EvaluationServiceStub(channel)
            await stub.GetServerInfo(pb.GetServerInfoRequest())
            assert (await stub.ListTasks(pb.ListTasksRequest())).tasks
            assert (await stub.ListModels(pb.ListModelsRequest())).models
            request = pb.EvaluateRequest(validate_only=True)
            request.spec.model = "idefics3"
            request.spec.tasks.append("handwritten_digits")
            request.spec.model_args["pretrained"] = checkpoint
            await stub.Evaluate(request)
            await stub.QueueStatus(pb.QueueStatusRequest())
    print(json.dumps(sorted(sys.modules)))

asyncio.run(main(*sys.argv[1:]))
"""


def test_python_is_set_up_while_servers_run_and_then_as_before() -> None:
    def settings() -> tuple[tuple[int, int, int], float]:
        return gc.get_threshold(), sys.getswitchinterval()

    before, frozen = settings(), gc.get_freeze_count()
    first, second = tuned_interpreter(), tuned_interpreter()
    with first:
        tuned = settings()
        assert sys.getswitchinterval() < before[1] / 10
        assert gc.get_freeze_count() > 0
        second.__enter__()
    assert settings() == tuned  # of the server that still runs
    second.__exit__(None, None, None)
    assert settings() == before
    assert frozen or gc.get_freeze_count() == 0


@contextmanager
def launched(folder: Path, grace: float = 1.0, settings: str = "") -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server process and its address. What it started is killed at the end if it is still there."""
    address = folder / "address"
    script = SCRIPT.format(state=str(folder / "state"), address=str(address), grace=grace, settings=settings)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: address.exists() or process.poll() is not None, folder)
        assert process.poll() is None, (folder / "server.log").read_text()
        yield process, address.read_text().strip()
    finally:
        for left in _family(process.pid):
            left.kill()
        process.wait(timeout=PATIENCE)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def wait_until(condition: object, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            pytest.fail((folder / "server.log").read_text())
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    with launched(tmp_path) as (process, address):
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.EvaluationServiceStub(channel)
            info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE).server
            assert info.slots
            watch = stub.WatchQueue(pb.WatchQueueRequest())
            assert next(watch).HasField("snapshot")
            family = _family(process.pid)
            process.send_signal(number)
            assert next(watch).snapshot.draining
            with pytest.raises(grpc.RpcError) as caught:
                next(watch)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert process.wait(timeout=PATIENCE) == 0
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        log = (tmp_path / "server.log").read_text()
        assert "Traceback" not in log
        assert f"serving on {address}" in log
        assert "shutdown_grace = 1.0  (set by the program)" in log
        assert not (tmp_path / "address").exists()


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with launched(tmp_path, grace=10 * PATIENCE) as (process, address):
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.EvaluationServiceStub(channel)
            request = pb.EvaluateRequest()
            request.spec.model = "idefics3"
            request.spec.tasks.append("handwritten_digits")
            request.spec.model_args["pretrained"] = str(tiny_checkpoint)
            job_id = stub.Evaluate(request, timeout=PATIENCE).job.job_id
            for message in stub.WatchJob(pb.WatchJobRequest(job_id=job_id)):
                if message.snapshot.attempt or message.event.state_change.attempt:
                    break
        family = _family(process.pid)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in (tmp_path / "server.log").read_text(), tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive


def test_a_server_that_cannot_start_says_why_and_fails(tmp_path: Path) -> None:
    with launched(tmp_path):
        script = SCRIPT.format(state=str(tmp_path / "state"), address=str(tmp_path / "other"), grace=1.0, settings="")
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=PATIENCE, check=False)
    assert second.returncode != 0
    assert b"in use by another server" in second.stderr


def test_the_server_process_never_imports_what_workers_need(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", REQUESTS, str(tmp_path / "state"), str(tmp_path)],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
    )
    assert done.returncode == 0, done.stderr.decode()
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded.intersection(HEAVY)
    assert "lmms_eval_grpc.server.servicer" in loaded


def test_the_settings_can_be_imported_without_grpc(tmp_path: Path) -> None:
    code = "import sys, lmms_eval_grpc.server; print(sorted({'grpc', 'google.protobuf', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE, check=True, cwd=tmp_path)
    assert done.stdout.strip() == b"[]"


EMBEDDED = """
import gc, os, signal, sys, threading, time
from lmms_eval_grpc.server import ServerArgs, launch_server
before = (gc.get_threshold(), gc.get_freeze_count())
state = sys.argv[1]
found = []

def stop():
    while not os.path.exists(f"{state}/address") or gc.get_threshold() == before[0]:
        time.sleep(0.01)
    found.append(gc.get_threshold())
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop, daemon=True).start()
launch_server(ServerArgs(port=0, state_dir=state, address_file=f"{state}/address", use_template=False))
assert found and found[0] != before[0], found
assert (gc.get_threshold(), gc.get_freeze_count()) == before, (gc.get_threshold(), gc.get_freeze_count())
"""


def test_a_program_that_goes_on_after_its_server_collects_garbage_as_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EMBEDDED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
