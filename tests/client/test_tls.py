"""Both clients over TLS: what they trust, what they show, and how they are told so."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.cli.authority import Authority, Pair
from lmms_eval_grpc.client import AsyncEvalClient, Credentials, EvalClient, ServerUnavailable
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as stubs
from tests.client.scripted_server import Servicer
from tests.client.test_processes import run_script
from tests.support.tls import credentials, make_authority, make_expired

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
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def alice(authority: Authority) -> Pair:
    return authority.issue_client("alice")


def serve(authority: Authority, *, mutual: bool) -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor())
    stubs.add_EvaluationServiceServicer_to_server(Servicer(), server)
    pairs = [(authority.server.key.read_bytes(), authority.server.certificate.read_bytes())]
    known = authority.own.certificate.read_bytes() if mutual else None
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials(pairs, known, mutual))
    server.start()
    return server, port


@pytest.fixture
def port(authority: Authority) -> Iterator[int]:
    """Of a server with TLS."""
    server, port = serve(authority, mutual=False)
    yield port
    server.stop(None).wait()


@pytest.fixture
def mutual_port(authority: Authority) -> Iterator[int]:
    """Of a server that wants certificates, too."""
    server, port = serve(authority, mutual=True)
    yield port
    server.stop(None).wait()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CA", "CERT", "KEY", "SERVER_NAME"):
        monkeypatch.delenv(f"LMMS_EVAL_GRPC_{name}", raising=False)


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
    authority: Authority, port: int, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(f"{scheme}://localhost:{port}", authority.own.certificate, monkeypatch) == "True"


def test_a_certificate_of_no_known_authority_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(f"grpcs://localhost:{port}", None, monkeypatch) == "unavailable"


def test_without_tls_a_server_with_tls_is_unavailable(
    authority: Authority, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(f"grpc://localhost:{port}", authority.own.certificate, monkeypatch) == "unavailable"


@pytest.mark.parametrize("scheme", ["grpcs://", "https://", ""])
def test_credentials_say_what_to_trust_and_what_to_show(
    make_client: Callable[..., Any], authority: Authority, alice: Pair, mutual_port: int, scheme: str
) -> None:
    client = make_client(f"{scheme}localhost:{mutual_port}", credentials=credentials(authority, alice))
    assert client.list_models() == ["dummy"]
    with pytest.raises(ServerUnavailable, match=r"\(cert, key\)"):
        make_client(f"{scheme}localhost:{mutual_port}", credentials=credentials(authority)).list_models()


def test_the_environment_says_it_to_clients_that_are_not_told(
    make_client: Callable[..., Any],
    authority: Authority,
    alice: Pair,
    mutual_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LMMS_EVAL_GRPC_CA", str(authority.own.certificate))
    monkeypatch.setenv("LMMS_EVAL_GRPC_CERT", str(alice.certificate))
    monkeypatch.setenv("LMMS_EVAL_GRPC_KEY", str(alice.key))
    assert make_client(f"localhost:{mutual_port}").list_models() == ["dummy"]
    # What a client is told holds alone.
    with pytest.raises(ServerUnavailable, match=r"\(cert, key\)"):
        make_client(f"localhost:{mutual_port}", credentials=credentials(authority)).list_models()
    monkeypatch.setenv("LMMS_EVAL_GRPC_SERVER_NAME", "other.example")
    with pytest.raises(ServerUnavailable, match=r"\(server_name\)"):
        make_client(f"localhost:{mutual_port}").list_models()


def test_the_environment_leaves_addresses_in_the_clear_alone(
    make_client: Callable[..., Any], server: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMMS_EVAL_GRPC_CA", str(authority.own.certificate))
    assert make_client(f"grpc://{server.address.removeprefix('http://')}").list_models() == ["dummy"]


def test_what_is_given_wins_over_the_environment() -> None:
    environ = {"LMMS_EVAL_GRPC_CA": "/a/ca.pem", "LMMS_EVAL_GRPC_SERVER_NAME": "", "LMMS_EVAL_GRPC_CERT": "/a/c"}
    found = Credentials.from_environment(environ, cert="/b/c", key="/b/k", ca=None)
    assert found == Credentials(ca="/a/ca.pem", cert="/b/c", key="/b/k")
    assert not Credentials.from_environment({}).asks_for_tls


def test_the_name_to_expect_can_be_another_than_the_host(
    make_client: Callable[..., Any], authority: Authority, port: int
) -> None:
    address = f"grpcs://localhost:{port}"
    right, wrong = (credentials(authority, server_name=name) for name in ("eval.example", "other.example"))
    assert make_client(address, credentials=right).list_models() == ["dummy"]
    with pytest.raises(ServerUnavailable, match="another name"):
        make_client(address, credentials=wrong).list_models()


@pytest.mark.parametrize("kind", [EvalClient, AsyncEvalClient])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ca": "none.pem"}, r"ca='/.*none\.pem': cannot be read \(No such file"),
        ({"ca": "alice.key"}, r"ca='.*alice\.key': holds no certificate in PEM"),
        ({"ca": "garbage"}, r"ca='.*garbage': holds no certificate in PEM"),
        ({"cert": "alice.pem"}, r"cert='.*alice\.pem': needs key too"),
        ({"key": "alice.key"}, r"key='.*alice\.key': needs cert too"),
        ({"cert": "none.pem", "key": "alice.key"}, r"cert='.*none\.pem': cannot be read"),
        ({"cert": "alice.pem", "key": "none.key"}, r"key='.*none\.key': cannot be read"),
        ({"cert": "alice.pem", "key": "other.key"}, r"are not a certificate and its private key"),
        ({"cert": "alice.pem", "key": "secret.key"}, r"the key without a passphrase"),
    ],
)
def test_files_that_cannot_be_used_are_named_before_anything_is_dialled(
    kind: type, files: dict[str, str], message: str, authority: Authority, alice: Pair, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    (tmp_path / "alice.pem").write_bytes(alice.certificate.read_bytes())
    (tmp_path / "alice.key").write_bytes(alice.key.read_bytes())
    (tmp_path / "other.key").write_bytes(authority.server.key.read_bytes())
    key = load_pem_private_key(alice.key.read_bytes(), None)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (tmp_path / "secret.key").write_bytes(secret)
    (tmp_path / "garbage").write_bytes(b"\xff\xfe\x00")
    paths: dict[str, Any] = {name: tmp_path / file for name, file in files.items()}
    given = Credentials(**paths)
    with pytest.raises(ValueError, match=message):
        kind("grpcs://localhost:1", credentials=given)


@pytest.mark.parametrize("kind", [EvalClient, AsyncEvalClient])
@pytest.mark.parametrize("address", ["http://localhost:1", "grpc://localhost:1", "unix:/run/eval.sock"])
def test_credentials_for_an_address_in_the_clear_are_a_mistake(kind: type, address: str, authority: Authority) -> None:
    with pytest.raises(ValueError, match=r"in the clear.*use grpcs://"):
        kind(address, credentials=credentials(authority))
    kind(address, credentials=Credentials())


@pytest.mark.parametrize("kind", [EvalClient, AsyncEvalClient])
def test_a_pickle_carries_the_paths(
    kind: type, authority: Authority, alice: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(authority.folder)
    given = Credentials(ca="ca.pem", cert="clients/alice.pem", key="clients/alice.key")
    client = kind("grpcs://eval.example:1", 7, credentials=given)
    pickled = pickle.dumps(client)
    assert b"PRIVATE KEY" not in pickled
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(pickled)
    assert copy._settings == client._settings
    assert copy._settings.credentials.key == str(alice.key)


FORK = """
    import os, sys
    from lmms_eval_grpc.client import Credentials, EvalClient

    address, ca, cert, key = sys.argv[1:]
    client = EvalClient(address, credentials=Credentials(ca=ca, cert=cert, key=key))
    assert client.list_models() == ["dummy"]
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if client.list_models() == ["dummy"] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.list_models() == ["dummy"]
    print("done")
"""


def test_a_forked_child_dials_for_itself(authority: Authority, alice: Pair, mutual_port: int) -> None:
    files = (authority.own.certificate, alice.certificate, alice.key)
    assert run_script(FORK, f"grpcs://localhost:{mutual_port}", *map(str, files)) == "done\n"


def test_clients_without_tls_import_no_ssl() -> None:
    run_script("""
        import sys
        from lmms_eval_grpc import EvalClient
        before = "ssl" in sys.modules  # grpc may have brought it
        EvalClient("localhost:1")
        assert ("ssl" in sys.modules) == before
        assert "cryptography" not in sys.modules
    """)


def test_a_certificate_that_has_ended_is_told_as_such(make_client: Callable[..., Any], tmp_path: Path) -> None:
    expired = make_expired(tmp_path / "expired")
    server, port = serve(expired, mutual=False)
    try:
        with pytest.raises(ServerUnavailable, match="its certificate has expired: have it renewed"):
            make_client(f"localhost:{port}", credentials=credentials(expired)).list_models()
    finally:
        server.stop(None).wait()
