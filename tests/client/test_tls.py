"""grpcs:// speaks TLS and checks the server's certificate."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as stubs
from tests.client.scripted_server import Servicer

SCRIPT = """
import asyncio, sys
from lmms_eval_grpc import AsyncEvalClient, EvalClient, ServerUnavailable
address = sys.argv[1]
async def ask():
    async with AsyncEvalClient(address, timeout=20) as client:
        return await client.list_models()
try:
    with EvalClient(address, timeout=20) as client:
        print(client.list_models() == asyncio.run(ask()))
except ServerUnavailable as error:
    print("unavailable")
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """A key, and the file of a self-signed certificate for localhost."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, none), file


@pytest.fixture
def port(certificate: tuple[bytes, Path]) -> Iterator[int]:
    key, file = certificate
    server = grpc.server(ThreadPoolExecutor())
    stubs.add_EvaluationServiceServicer_to_server(Servicer(), server)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, file.read_bytes())]))
    server.start()
    yield port
    server.stop(None).wait()


def ask(address: str, roots: Path | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a fresh process sees: grpc reads the trusted authorities once."""
    if roots is not None:
        monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(roots))
    else:
        monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    done = subprocess.run([sys.executable, "-c", SCRIPT, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_both_clients_talk_to_a_server_that_they_trust(
    certificate: tuple[bytes, Path], port: int, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(f"{scheme}://localhost:{port}", certificate[1], monkeypatch) == "True"


def test_a_certificate_of_no_known_authority_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(f"grpcs://localhost:{port}", None, monkeypatch) == "unavailable"


def test_without_tls_a_server_with_tls_is_unavailable(
    certificate: tuple[bytes, Path], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(f"grpc://localhost:{port}", certificate[1], monkeypatch) == "unavailable"
