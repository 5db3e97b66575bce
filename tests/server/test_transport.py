"""TLS of a real server, with real clients: who gets in, who does not and is told why, and certificates that rotate."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from lmms_eval_grpc.cli.authority import Authority
from lmms_eval_grpc.client import AsyncEvalClient, Credentials, ServerUnavailable
from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.app import EvaluationServer
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.server.transport import Listener, ServerCertificate, certificate_name
from tests.scheduler.doubles import PATIENCE, ScriptedExecutor
from tests.server.conftest import NewRig
from tests.support.tls import (
    credentials,
    make_authority,
    make_expired,
    serial_number,
    server_settings,
    shown_serial_number,
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that the server does not know."""
    return make_authority(tmp_path / "stranger")


async def ask(address: str, used: Credentials | None = None) -> str:
    """The version of the server at ``address``, as a client gets it that is made for this."""
    async with AsyncEvalClient(address, timeout=PATIENCE, credentials=used) as client:
        return (await client.server_info()).version


async def test_clients_that_trust_the_authority_talk_by_the_address_that_the_server_gives(
    new_rig: NewRig, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "address"
    server = (await new_rig(address_file=file, **server_settings(authority))).server
    assert server.address.startswith("grpcs://127.0.0.1:")
    assert file.read_text() == f"{server.address}\n"
    assert await ask(server.address, credentials(authority))
    assert await ask(server.address.removeprefix("grpcs://"), credentials(authority))
    async with AsyncEvalClient(server.address, credentials=credentials(authority)) as client:
        await client.wait_for_ready(PATIENCE)
        assert (await client.health())["status"] == "healthy"


@pytest.mark.parametrize("host", ["localhost", "::1"])
async def test_every_way_to_say_loopback_is_in_the_certificate(
    new_rig: NewRig, authority: Authority, host: str
) -> None:
    server = (await new_rig(host=host, **server_settings(authority))).server
    assert await ask(server.address, credentials(authority))


async def test_who_does_not_get_in_is_told_why(new_rig: NewRig, authority: Authority, stranger: Authority) -> None:
    address = (await new_rig(**server_settings(authority))).server.address
    plain = address.removeprefix("grpcs://")
    with pytest.raises(ServerUnavailable, match=r"no authority that this client trusts.*\(ca\)"):
        await ask(address, credentials(stranger))
    with pytest.raises(ServerUnavailable, match=r"it may speak TLS: use grpcs://"):
        await ask(plain)
    with pytest.raises(ServerUnavailable, match=r"for another name.*\(server_name\)"):
        await ask(address, credentials(authority, server_name="other.example"))
    assert await ask(address, credentials(authority, server_name="eval.example"))
    async with AsyncEvalClient(plain) as client:
        with pytest.raises(ServerUnavailable, match=r"was not ready within 1 s.*it may speak TLS"):
            await client.wait_for_ready(1)


async def test_a_server_without_tls_is_told_from_one_that_is_away(new_rig: NewRig, authority: Authority) -> None:
    address = (await new_rig()).server.address
    with pytest.raises(ServerUnavailable, match=r"grpcs://.* cannot be reached; it does not speak TLS: use grpc://"):
        await ask(f"grpcs://{address}", credentials(authority))


async def test_with_client_ca_only_its_certificates_get_in(
    new_rig: NewRig, authority: Authority, stranger: Authority
) -> None:
    address = (await new_rig(**server_settings(authority, mutual=True))).server.address
    assert await ask(address, credentials(authority, authority.issue_client("alice")))
    with pytest.raises(ServerUnavailable, match=r"it may want a certificate from an authority .*\(cert, key\)"):
        await ask(address, credentials(authority))
    with pytest.raises(ServerUnavailable, match=r"it may want a certificate from an authority .*\(cert, key\)"):
        await ask(address, credentials(authority, stranger.issue_client("alice")))
    with pytest.raises(ServerUnavailable, match=r"it may speak TLS"):
        await ask(address.removeprefix("grpcs://"))


async def test_the_server_certificate_is_no_client_certificate(new_rig: NewRig, authority: Authority) -> None:
    address = (await new_rig(**server_settings(authority, mutual=True))).server.address
    with pytest.raises(ServerUnavailable):
        await ask(address, credentials(authority, authority.server))


async def test_a_certificate_rotates_while_a_watch_goes_on(
    new_rig: NewRig, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await new_rig(**server_settings(authority))
    address = rig.server.address
    async with AsyncEvalClient(address, credentials=credentials(authority)) as client:
        job = await client.evaluate(
            model="idefics3", tasks=["handwritten_digits"], model_args={"pretrained": str(rig.checkpoint)}
        )
        watch = aiter(client.watch_job(job["job_id"]))
        execution = await rig.executor.execution(job["job_id"])
        assert (await anext(watch)).HasField("state_change")
        first = serial_number(authority.server.certificate)
        assert await asyncio.to_thread(shown_serial_number, address, authority) == first

        authority.renew_server()
        second = serial_number(authority.server.certificate)
        assert second != first
        assert await asyncio.to_thread(shown_serial_number, address, authority) == second
        assert await ask(address, credentials(authority))

        good = authority.server.key.read_bytes()
        caplog.clear()
        authority.server.key.write_text("half a key")
        for _ in range(3):
            assert await asyncio.to_thread(shown_serial_number, address, authority) == second
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "the old ones stay in force: tls_key: " in warnings[0]
        authority.server.key.unlink()
        assert await asyncio.to_thread(shown_serial_number, address, authority) == second

        authority.server.key.write_bytes(good)
        authority.renew_server()
        third = serial_number(authority.server.certificate)
        assert await asyncio.to_thread(shown_serial_number, address, authority) == third

        # The stream that was open all the time is still the first one: the client would log that it broke.
        caplog.clear()
        execution.complete()
        states = [event.state_change.state async for event in watch if event.HasField("state_change")]
        assert states
        assert "the connection broke" not in caplog.text


async def test_the_authority_of_the_callers_rotates_too(
    new_rig: NewRig, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    callers = tmp_path / "callers.pem"
    callers.write_bytes(authority.own.certificate.read_bytes())
    address = (await new_rig(**server_settings(authority), tls_client_ca=callers)).server.address
    old, new = authority.issue_client("alice"), stranger.issue_client("bob")
    assert await ask(address, credentials(authority, old))
    # Both for a while, then the new one alone.
    callers.write_bytes(authority.own.certificate.read_bytes() + stranger.own.certificate.read_bytes())
    assert await ask(address, credentials(authority, old))
    assert await ask(address, credentials(authority, new))
    callers.write_bytes(stranger.own.certificate.read_bytes())
    assert await ask(address, credentials(authority, new))
    with pytest.raises(ServerUnavailable):
        await ask(address, credentials(authority, old))


async def test_a_handler_learns_the_name_in_the_certificate(authority: Authority) -> None:
    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            async def answer(request: bytes, context: Any) -> bytes:
                return repr(certificate_name(context.auth_context())).encode()

            return grpc.unary_unary_rpc_method_handler(answer)

    async def name_seen_by(args: ServerArgs, channel_credentials: grpc.ChannelCredentials | None) -> bytes:
        async with AsyncExitStack() as cleanup:
            server = grpc.aio.server()
            server.add_generic_rpc_handlers([Handler()])
            listener = Listener(args)
            target = listener.open(server, cleanup).removeprefix("grpcs://")
            await server.start()
            if channel_credentials is None:
                channel = grpc.aio.insecure_channel(target)
            else:
                channel = grpc.aio.secure_channel(target, channel_credentials)
            async with channel:
                method: Any = channel.unary_unary("/a.Service/Method")
                name: bytes = await method(b"", timeout=PATIENCE)
            await server.stop(0)
            return name

    mutual = ServerArgs(port=0, **server_settings(authority, mutual=True))
    shown = credentials(authority, authority.issue_client("alice@example.com"))
    assert await name_seen_by(mutual, shown.make()) == b"'alice@example.com'"
    assert await name_seen_by(ServerArgs(port=0, **server_settings(authority)), shown.make()) == b"None"
    assert await name_seen_by(ServerArgs(port=0), None) == b"None"


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"x509_common_name": [b"alice"], "x509_subject_alternative_name": [b"host"]}, "alice"),
        ({"x509_subject_alternative_name": [b"spiffe://team/trainer", b"other"]}, "spiffe://team/trainer"),
        ({"x509_common_name": [b""], "x509_subject_alternative_name": [b"host"]}, "host"),
        ({"x509_common_name": ["Zoë".encode()]}, "Zoë"),
        ({"x509_common_name": [b"\xff\xfe"]}, None),
        ({}, None),
    ],
)
def test_which_name_counts(properties: dict[str, list[bytes]], name: str | None) -> None:
    assert certificate_name({"transport_security_type": [b"ssl"], **properties}) == name
    assert certificate_name({"transport_security_type": [b"insecure"], **properties}) is None
    assert certificate_name(properties) is None


def test_an_address_that_means_any_is_told_by_a_name_of_the_certificate(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = ServerCertificate(authority.server.certificate, authority.server.key)
    for host in ("0.0.0.0", "::", ""):
        assert certificate.choose_name(host) == "eval.example"
    assert certificate.choose_name("127.0.0.1") == "127.0.0.1"
    assert not caplog.records
    assert certificate.choose_name("10.0.0.7") == "10.0.0.7"
    assert "not for 10.0.0.7" in caplog.text


def _start(tmp_path: Path, **settings: Any) -> Any:
    return EvaluationServer(ServerArgs(port=0, state_dir=tmp_path / "s", **settings), executor=ScriptedExecutor())


def _spoil(authority: Authority, how: str) -> None:
    """Makes the server's files wrong in one way."""
    certificate, key = authority.server.certificate, authority.server.key
    pem, pkcs8 = Encoding.PEM, PrivateFormat.PKCS8
    if how == "no certificate file":
        certificate.unlink()
    elif how == "no key file":
        key.unlink()
    elif how == "certificate is a folder":
        certificate.unlink()
        certificate.mkdir()
    elif how == "certificate is a key":
        certificate.write_bytes(key.read_bytes())
    elif how == "key is a certificate":
        key.write_bytes(certificate.read_bytes())
    elif how == "key of another":
        key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, NoEncryption()))
    elif how == "key with a passphrase":
        own = load_pem_private_key(key.read_bytes(), None)
        key.write_bytes(own.private_bytes(pem, pkcs8, BestAvailableEncryption(b"secret")))
    elif how == "key of an odd kind":
        key.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, NoEncryption()))
    else:
        authority.own.certificate.write_text("none")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no certificate file", r"tls_cert: .*server\.pem cannot be read: No such file.*certs init"),
        ("no key file", r"tls_key: .*server\.key cannot be read: No such file"),
        ("certificate is a folder", r"tls_cert: .*server\.pem cannot be read: Is a directory"),
        ("certificate is a key", r"tls_cert: .*server\.pem holds no certificate in PEM"),
        ("key is a certificate", r"tls_key: .*server\.key holds no private key in PEM"),
        ("key of another", r"tls_key: .*server\.key is not the key of the first certificate in .*server\.pem"),
        ("key with a passphrase", r"tls_key: .*server\.key is encrypted; store it without a passphrase"),
        ("key of an odd kind", r"tls_key: .*server\.key is of a kind that gRPC cannot use"),
        ("no authority", r"tls_client_ca: .*ca\.pem holds no certificate in PEM"),
    ],
)
async def test_files_that_cannot_be_used_are_named_with_a_remedy(
    tmp_path: Path, authority: Authority, how: str, message: str
) -> None:
    _spoil(authority, how)
    server = _start(tmp_path, **server_settings(authority, mutual=True))
    with pytest.raises(ServerStartError, match=message):
        await server.start()
    assert not (tmp_path / "s").exists()


async def test_a_certificate_out_of_its_time_is_refused(tmp_path: Path) -> None:
    expired = make_expired(tmp_path / "expired")
    with pytest.raises(ServerStartError, match=r"tls_cert: .* was valid until 20.* UTC; have it renewed"):
        await _start(tmp_path, **server_settings(expired)).start()
    future = Authority(tmp_path / "future", now=datetime.now(UTC) + timedelta(days=2))
    future.create()
    with pytest.raises(ServerStartError, match=r"tls_cert: .* is valid from 20.* UTC on; .*clock"):
        await _start(tmp_path, **server_settings(future)).start()


async def test_an_expired_certificate_that_is_renewed_serves_again(new_rig: NewRig, tmp_path: Path) -> None:
    expired = make_expired(tmp_path / "expired")
    Authority(expired.folder).renew_server()
    address = (await new_rig(**server_settings(expired))).server.address
    assert await ask(address, credentials(expired))


async def test_a_certificate_that_ends_soon_is_warned_about(
    new_rig: NewRig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = Authority(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=360))
    old.create()
    with caplog.at_level(logging.INFO, "lmms_eval_grpc.server.transport"):
        await new_rig(**server_settings(old))
    told = [(record.levelno, record.getMessage()) for record in caplog.records if "valid until" in record.getMessage()]
    assert [level for level, _ in told] == [logging.WARNING]
