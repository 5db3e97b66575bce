"""The built wheel works in an empty environment: the light client alone, and the server with what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CLIENT_SCRIPT = """
import importlib.metadata, importlib.resources, sys, time
from lmms_eval_grpc import AsyncEvalClient, EvalClient, ServerUnavailable

client = EvalClient("127.0.0.1:1")
try:
    client.list_tasks()
except ServerUnavailable as error:
    print("unavailable:", error)
heavy = {"torch", "transformers", "datasets", "numpy", "yaml", "rich"} & set(sys.modules)
assert not heavy, heavy
files = importlib.resources.files("lmms_eval_grpc")
assert (files / "protos/lmms_eval_grpc/v1/evaluation_service.proto").is_file()
assert (files / "py.typed").is_file()
packages = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()} - {"pip", "setuptools"}
print("packages:", ",".join(sorted(packages)))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From the sdist, as an installer would get it: what the sdist lacks, the wheel lacks.
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = folder.glob("*.whl")
    return built


def environment(folder: Path) -> Path:
    """An empty virtual environment; returns its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, timeout: float = 600) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, timeout=timeout, cwd="/", env=clean
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_tasks_protos_stubs_and_the_type_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for expected in (
        "lmms_eval_grpc/py.typed",
        "lmms_eval_grpc/protos/lmms_eval_grpc/v1/job.proto",
        "lmms_eval_grpc/v1/job_pb2.pyi",
        "lmms_eval_grpc/benchmarks/handwritten_digits/handwritten_digits.yaml",
        "lmms_eval_grpc/benchmarks/handwritten_digits/test.parquet",
    ):
        assert expected in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "clients/"))]


def test_the_base_install_is_a_light_client(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "base")
    run(python, "-m", "pip", "install", "--quiet", str(wheel))
    output = run(python, "-c", CLIENT_SCRIPT)
    assert "unavailable:" in output
    (packages,) = [line for line in output.splitlines() if line.startswith("packages:")]
    installed = set(packages.removeprefix("packages: ").split(","))
    # typing-extensions comes with grpcio.
    assert installed - {"typing-extensions", "typing_extensions"} == {
        "lmms-eval-grpc", "grpcio", "protobuf", "googleapis-common-protos",
    }  # fmt: skip
    assert "serve" in run(python, "-m", "lmms_eval_grpc", "--help")
    missing = subprocess.run([str(python), "-m", "lmms_eval_grpc", "serve"], capture_output=True, text=True, cwd="/")
    assert missing.returncode == 2
    assert "lmms-eval-grpc[server]" in missing.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_server_install_evaluates(wheel: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    python = environment(tmp_path / "server")
    constraints = str(ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, f"{wheel}[server]", timeout=850)
    state, address_file = tmp_path / "state", tmp_path / "address"
    script = f"""
import pathlib, signal, subprocess, sys, time
from lmms_eval_grpc import EvalClient
server = subprocess.Popen([sys.executable, "-m", "lmms_eval_grpc", "serve", "--port", "0",
    "--state-dir", {str(state)!r}, "--address-file", {str(address_file)!r}])
address = pathlib.Path({str(address_file)!r})
while not address.exists():
    assert server.poll() is None
    time.sleep(0.1)
with EvalClient(address.read_text().strip()) as client:
    client.wait_for_ready(timeout=60)
    assert "handwritten_digits" in client.list_tasks()
    job = client.evaluate(model="idefics3", model_args={{"pretrained": {str(tiny_checkpoint)!r}}},
        tasks=["handwritten_digits"], limit=4)
    done = client.wait_for_job(job["job_id"], verbose=False, timeout=300)
    print("status:", done["status"])
server.send_signal(signal.SIGTERM)
print("exit:", server.wait(60))
"""
    output = run(python, "-c", script)
    assert "status: completed" in output
    assert "exit: 0" in output
