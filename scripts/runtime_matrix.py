"""Runs the client of the base install, with old and new grpcio, protobuf and Python, against a server of today.

Each combination gets an environment of its own with nothing but the base install's packages and pytest. In it the
client's own tests run, and a program that talks to a real server, which the environment of this script runs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")
BETWEEN = ("5.29.*", "6.33.*")
"""Releases of protobuf beside the oldest and the newest."""
TEST_TOOLS = ("pytest>=8", "pytest-asyncio>=0.24", "pytest-timeout>=2.3", "hypothesis>=6.100", "numpy>=1.26")

PROGRAM = """
import asyncio, sys
import google.protobuf, grpc
from lmms_eval_grpc import AsyncEvalClient, EvalClient, InvalidRequest, JobNotFound

address, checkpoint = sys.argv[1:]
arguments = {"model": "huggingface", "tasks": ["handwritten_digits"], "model_args": {"pretrained": checkpoint}}

with EvalClient(address) as client:
    assert client.is_healthy() and "handwritten_digits" in client.list_tasks()
    job_id = client.evaluate(**arguments, limit=4)["job_id"]
    events = list(client.watch_job(job_id))
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    done = client.wait_for_job(job_id, verbose=False)
    assert 0 <= done["result"]["results"]["handwritten_digits"]["exact_match,none"] <= 1
    assert len(client.samples(job_id).to_list()) == 4
    try:
        client.evaluate("no_such_model", ["no_such_task"])
    except InvalidRequest as error:
        assert {"spec.model", "spec.tasks[0]"} <= {violation.field for violation in error.violations}, error.violations
    try:
        client.get_job("0" * 16)
    except JobNotFound:
        pass

async def main():
    async with AsyncEvalClient(address) as client:
        job_id = (await client.evaluate(**arguments, limit=4))["job_id"]
        assert [event async for event in client.watch_job(job_id)][-1].HasField("state_change")
        assert (await client.wait_for_job(job_id, verbose=False))["status"] == "completed"
        assert len(await client.samples(job_id).to_list()) == 4

asyncio.run(main())
print(sys.version.split()[0], grpc.__version__, google.protobuf.__version__)
"""


class Combination(NamedTuple):
    """One environment to try. A version may be a pattern; empty: the newest that there is."""

    python: str
    grpcio: str
    protobuf: str

    def __str__(self) -> str:
        return f"{Path(self.python).name}, grpcio {self.grpcio or 'newest'}, protobuf {self.protobuf or 'newest'}"


class Trouble(Exception):
    """A step that failed, with the end of what it said."""


def main() -> int:
    """Returns 1 when any combination failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ends", action="store_true", help="only the oldest and the newest of all, on the Python that runs this"
    )
    parser.add_argument("--quick", action="store_true", help="only the program, without the tests")
    parser.add_argument("--python", action="append", help="one to try; may be repeated (default: those on PATH)")
    args = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder, real_server(Path(folder)) as (address, checkpoint):
        for number, combination in enumerate(combinations(args.ends, args.python)):
            start = time.monotonic()
            home = Path(folder) / f"environment-{number}"
            try:
                python = make_environment(home, combination, () if args.quick else TEST_TOOLS)
            except Trouble as trouble:
                print(f"skipped  {combination}: cannot be installed: {str(trouble).splitlines()[-1]}", flush=True)
                continue
            try:
                told = [" ".join(run(python, "-c", PROGRAM, address, str(checkpoint)).split())]
                if not args.quick:
                    tests = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/client")
                    told.append(tests.splitlines()[-1])
            except Trouble as trouble:
                failed.append(combination)
                print(f"FAILED   {combination}\n{trouble}", flush=True)
                continue
            finally:
                shutil.rmtree(home)
            seconds = time.monotonic() - start
            print(f"ok       {combination}: Python, grpcio, protobuf {'; '.join(told)}; {seconds:.0f} s", flush=True)
    return 1 if failed else 0


def combinations(ends: bool, pythons: list[str] | None) -> list[Combination]:
    """The oldest, which pyproject.toml promises, to the newest that can be had."""
    floors = dict(
        line.split(">=") for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    )
    if ends:
        oldest = Combination(sys.executable, floors["grpcio"], floors["protobuf"])
        return [oldest, Combination(sys.executable, "", "")]
    pythons = pythons or [found for name in PYTHONS if (found := shutil.which(name))]
    protobufs = (floors["protobuf"], *BETWEEN, "")
    return [Combination(*parts) for parts in itertools.product(pythons, (floors["grpcio"], ""), protobufs)]


def make_environment(home: Path, combination: Combination, tools: tuple[str, ...]) -> Path:
    """An environment with these versions and ``tools``; returns its Python.

    Only wheels are taken: to build grpcio takes half an hour.
    """
    run(Path(combination.python), "-m", "venv", "--without-pip", str(home))
    python = home / "bin" / "python"
    packages = [
        f"{name}=={version}" if version else name
        for name, version in (("grpcio", combination.grpcio), ("protobuf", combination.protobuf))
    ]
    pip = ("-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check")
    wanted = (*packages, "googleapis-common-protos>=1.63.1", *tools)
    run(Path(sys.executable), *pip, "--only-binary", ":all:", *wanted)
    if tools:
        # Alone: what it asks of protobuf is for parts that the tests do not use.
        testing = f"grpcio-testing=={combination.grpcio}" if combination.grpcio else "grpcio-testing"
        run(Path(sys.executable), *pip, "--no-deps", testing)
    return python


def run(python: Path, *arguments: str) -> str:
    """What the program printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        timeout=1800,
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "ERROR"},
    )
    if done.returncode:
        raise Trouble("\n".join([*done.stdout.splitlines()[-30:], *done.stderr.splitlines()[-30:]]))
    return done.stdout


@contextmanager
def real_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """A server of this environment on a free port; yields its address and a checkpoint that it can evaluate."""
    from tests.support.checkpoints import build_checkpoint

    checkpoint = build_checkpoint("idefics3", folder / "checkpoint")
    address_file = folder / "address"
    command = (sys.executable, "-m", "lmms_eval_grpc", "serve", "--port", "0", "--state-dir", str(folder / "state"))
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen([*command, "--address-file", str(address_file)], cwd=ROOT, stdout=log, stderr=log)
    try:
        while not address_file.exists():
            if server.poll() is not None:
                raise SystemExit(f"the server did not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.1)
        yield address_file.read_text().strip(), checkpoint
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    sys.exit(main())
