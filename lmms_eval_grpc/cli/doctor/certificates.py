"""The certificates that a server would show, and those by which it would know its clients."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.server.exposure import is_loopback

if TYPE_CHECKING:
    from cryptography import x509

_SOON = timedelta(days=14)
_ANY = ("0.0.0.0", "::")


def check_certificates(setup: Setup) -> Iterator[Finding]:
    """Those that the settings name."""
    paths = [setup.args.tls_cert, setup.args.tls_key, setup.args.tls_client_ca]
    if any(path is not None for path in paths):
        yield from check_files(*paths, host=setup.args.host)


def check_files(
    certificate: Path | None, key: Path | None, client_authorities: Path | None, *, host: str
) -> Iterator[Finding]:
    """Whether certificate and key can be read and belong together, for whom, and until when; ``host``: listened on."""
    if (certificate is None) != (key is None):
        missing, given = ("tls_key", "tls_cert") if key is None else ("tls_cert", "tls_key")
        yield failure("certificate", f"{given} is set without {missing}", f"set {missing} too")
    if certificate is not None and (chain := _read(certificate)) is not None:
        if isinstance(chain, Finding):
            yield chain
        else:
            yield from _check_validity("certificate", certificate, chain)
            yield from _check_names(certificate, chain[0], host)
    if certificate is not None and key is not None:
        yield from _check_key(certificate, key)
    if client_authorities is not None and (authorities := _read(client_authorities)) is not None:
        if isinstance(authorities, Finding):
            yield authorities
        else:
            yield from _check_validity("client authority", client_authorities, authorities)
            yield from _check_authorities(client_authorities, authorities)


def _read(path: Path) -> Sequence[x509.Certificate] | Finding | None:
    """The certificates in a file; None where they are there, but cannot be looked into."""
    try:
        text = path.read_bytes()
    except OSError as error:
        return failure("certificate", f"{path} cannot be read: {error.strerror}", "correct the path or its permissions")
    try:
        from cryptography import x509
    except ImportError:
        return _read_without_looking(path)
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError as error:
        return failure("certificate", f"{path} holds no certificate: {error}", "use a file in PEM format")


def _read_without_looking(path: Path) -> Finding | None:
    try:
        ssl.create_default_context(cafile=str(path))
    except (ssl.SSLError, OSError) as error:
        return failure("certificate", f"{path} holds no certificate: {error}", "use a file in PEM format")
    return warning(
        "certificate",
        f"{path} can be read; until when and for which names it is valid was not looked at",
        "pip install cryptography, and run doctor again",
    )


def _check_validity(check: str, path: Path, chain: Sequence[x509.Certificate]) -> Iterator[Finding]:
    now = datetime.now(UTC)
    first = min(chain, key=lambda one: one.not_valid_after_utc)
    until = f"{first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if first.not_valid_after_utc <= now:
        yield failure(check, f"{path}: expired on {until}", "renew it, and restart the server")
    elif (late := max(one.not_valid_before_utc for one in chain)) > now:
        yield failure(check, f"{path}: valid only from {late:%Y-%m-%d %H:%M} UTC on", "set the clock, or issue it anew")
    elif first.not_valid_after_utc <= now + _SOON:
        yield warning(check, f"{path}: expires on {until}", "renew it before")
    else:
        yield ok(check, f"{path}: valid until {until}")


def _check_names(path: Path, certificate: x509.Certificate, host: str) -> Iterator[Finding]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        yield failure(
            "certificate",
            f"{path}: has no subject alternative name, so that no client accepts it",
            "issue one with the names and addresses by which clients call the server",
        )
        return
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    told = f"{path}: for {', '.join([*hosts, *addresses]) or 'no host'}"
    if host not in _ANY and not is_loopback(host) and not _covers(host, hosts, addresses):
        yield warning("certificate", f"{told}, but the server listens on {host}", "call it by one of these names")
    else:
        yield ok("certificate", told)


def _covers(host: str, names: Sequence[str], addresses: Sequence[str]) -> bool:
    try:
        return str(ipaddress.ip_address(host.strip("[]"))) in addresses
    except ValueError:
        wanted = host.lower()
        return any(wanted == name.lower() or f"*.{wanted.partition('.')[2]}" == name.lower() for name in names)


def _check_key(certificate: Path, key: Path) -> Iterator[Finding]:
    try:
        mode = key.stat().st_mode
        # No prompt for the password of an encrypted key: the server has none to give.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield failure(
                "key", f"{key} is not the key of {certificate}", "use the key that the certificate was made for"
            )
        else:
            yield failure("key", f"{key} cannot be used: {error}", "use an unencrypted private key in PEM format")
        return
    except OSError as error:
        yield failure("key", f"{key} cannot be read: {error.strerror}", "correct the path or its permissions")
        return
    if mode & 0o077:
        yield warning("key", f"other users may read {key}", f"chmod 600 {key}")
    else:
        yield ok("key", f"{key} belongs to the certificate")


def _check_authorities(path: Path, authorities: Sequence[x509.Certificate]) -> Iterator[Finding]:
    from cryptography import x509

    for one in authorities:
        try:
            is_authority = one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        if not is_authority:
            yield warning(
                "client authority",
                f"{path}: {one.subject.rfc4514_string() or 'a certificate'} is no certificate authority",
                "name the authority that signs the clients' certificates",
            )
