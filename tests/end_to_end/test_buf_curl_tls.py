"""The real ``buf`` binary against a server that speaks TLS and wants certificates."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmms_eval_grpc.cli.authority import Authority, Pair
from tests.end_to_end.conftest import ServerProcess
from tests.support.tls import credentials, make_authority, server_settings

SERVICE = "lmms_eval_grpc.v1.EvaluationService"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "tls")


@pytest.fixture
def alice(authority: Authority) -> Pair:
    return authority.issue_client("alice")


@pytest.fixture
def secure_server(tmp_path: Path, authority: Authority, alice: Pair) -> Iterator[ServerProcess]:
    flags = [
        word
        for name, path in server_settings(authority, mutual=True).items()
        for word in (f"--{name.replace('_', '-')}", str(path))
    ]
    server = ServerProcess(tmp_path, *flags, "--no-use-template")
    server.credentials = credentials(authority, alice)
    yield server.start()
    server.stop()


def buf_curl(server: ServerProcess, path: str, *flags: str) -> subprocess.CompletedProcess[str]:
    url = server.address.replace("grpcs://", "https://") + path
    command = [str(Path(sys.executable).with_name("buf")), "curl", "--protocol", "grpc", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", check=False)


def test_reflection_health_and_calls_work_over_tls(
    secure_server: ServerProcess, authority: Authority, alice: Pair
) -> None:
    trust = ("--cacert", str(authority.own.certificate))
    own = ("--cert", str(alice.certificate), "--key", str(alice.key))
    listed = buf_curl(secure_server, "", *trust, *own, "--list-methods")
    assert listed.returncode == 0, listed.stderr
    assert f"{SERVICE}/Evaluate" in listed.stdout.split()
    info = buf_curl(secure_server, f"/{SERVICE}/GetServerInfo", *trust, *own, "--data", "{}")
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["server"]["version"]
    health = buf_curl(
        secure_server, "/grpc.health.v1.Health/Check", *trust, *own, "--data", json.dumps({"service": SERVICE})
    )
    assert json.loads(health.stdout) == {"status": "SERVING"}

    # Without a certificate, or without trust, not even the reflection answers.
    for flags in (trust, own):
        refused = buf_curl(secure_server, "", *flags, "--list-methods")
        assert refused.returncode != 0
        assert refused.stdout == ""
