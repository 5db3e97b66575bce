"""Certificates for tests: an authority in a folder, and what else goes wrong with them."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from lmms_eval_grpc.cli.authority import CERTIFICATE_DAYS, Authority, Pair
from lmms_eval_grpc.client import Credentials


def make_authority(folder: Path) -> Authority:
    """A new authority, with a certificate for a server on this machine."""
    authority = Authority(folder)
    authority.create(["eval.example"])
    return authority


def make_expired(folder: Path) -> Authority:
    """An authority whose server's certificate was valid until yesterday."""
    authority = Authority(folder, now=datetime.now(UTC) - timedelta(days=CERTIFICATE_DAYS + 1))
    authority.create()
    return authority


def server_settings(authority: Authority, *, mutual: bool = False) -> dict[str, Any]:
    """Of a server with TLS; ``mutual``: callers need a certificate, too."""
    settings = {"tls_cert": authority.server.certificate, "tls_key": authority.server.key}
    return {**settings, "tls_client_ca": authority.own.certificate} if mutual else settings


def credentials(authority: Authority, pair: Pair | None = None, **more: Any) -> Credentials:
    """Of a client that trusts an authority, and has a certificate."""
    own: dict[str, Any] = {} if pair is None else {"cert": pair.certificate, "key": pair.key}
    return Credentials(ca=authority.own.certificate, **own, **more)


def serial_number(path: Path) -> int:
    """Of the certificate in a file."""
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def shown_serial_number(address: str, authority: Authority) -> int:
    """Of the certificate that a server shows to whoever connects now. ``address`` is ``grpcs://host:port``."""
    host, _, port = address.removeprefix("grpcs://").rpartition(":")
    context = ssl.create_default_context(cafile=str(authority.own.certificate))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host.strip("[]"), int(port)), 30) as plain,
        context.wrap_socket(plain, server_hostname=host.strip("[]")) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
