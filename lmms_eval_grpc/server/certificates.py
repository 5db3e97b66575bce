"""The server's certificate and key as files: read, and checked before anything relies on them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

_T = TypeVar("_T")

_SOON = timedelta(days=14)
"""A certificate that ends within this time is warned about."""


class CertificateError(ValueError):
    """A file cannot be used."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        """What is wrong; names the setting and the file."""
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the PEM files are."""

    certificate: Path
    key: Path
    client_ca: Path | None
    """Authorities of the callers' certificates; None: callers need none."""

    def state(self) -> tuple[object, ...]:
        """Differs from an earlier answer when one of the files was changed or replaced meanwhile."""
        return tuple(_state(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


@dataclass(frozen=True, slots=True)
class LoadedCertificate:
    """What the files hold, checked."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    names: tuple[str, ...]
    """Host names and addresses that the certificate is for."""
    not_after: datetime

    def ends_soon(self) -> bool:
        """Whether it is time to renew the certificate."""
        return self.not_after - datetime.now(UTC) < _SOON

    def covers(self, host: str) -> bool:
        """Whether a client that dials ``host`` finds it in the certificate."""
        try:
            return str(ipaddress.ip_address(host.strip("[]"))) in self.names
        except ValueError:
            wanted = host.lower()
            return any(name.lower() in (wanted, f"*.{wanted.partition('.')[2]}") for name in self.names)


def load(files: CertificateFiles, now: datetime | None = None) -> LoadedCertificate:
    """Reads the files.

    Args:
        files: where they are.
        now: at which time the certificates must be valid. None: now.

    Raises:
        CertificateError: a file cannot be read, is none of its kind, or is not valid at that time; or the key is not
            the certificate's.
    """
    now = now or datetime.now(UTC)
    chain = _read("tls_cert", files.certificate)
    certificate = _parse("tls_cert", files.certificate, x509.load_pem_x509_certificates, chain)[0]
    _check_dates("tls_cert", files.certificate, certificate, now)
    key = _read("tls_key", files.key)
    _check_key(files, certificate, key)
    client_ca = None
    if files.client_ca is not None:
        client_ca = _read("tls_client_ca", files.client_ca)
        authorities = _parse("tls_client_ca", files.client_ca, x509.load_pem_x509_certificates, client_ca)
        newest = max(authorities, key=lambda authority: authority.not_valid_after_utc)
        _check_dates("tls_client_ca", files.client_ca, newest, now)
    return LoadedCertificate(chain, key, client_ca, tuple(list_names(certificate)), certificate.not_valid_after_utc)


def list_names(certificate: x509.Certificate) -> list[str]:
    """The hosts that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


def list_impostors(client_ca: bytes) -> list[str]:
    """The subjects of those certificates in ``client_ca`` that cannot sign others, and so vouch for nobody."""
    found = []
    for certificate in x509.load_pem_x509_certificates(client_ca):
        try:
            is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        if not is_authority:
            found.append(certificate.subject.rfc4514_string() or "a certificate without a name")
    return found


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(
            f"{setting}: {path} cannot be read: {error.strerror}",
            "mend the path or the file's permissions (`lmms-eval-grpc certs init` makes certificates)",
        ) from error


def _parse(setting: str, path: Path, parse: Callable[[bytes], _T], content: bytes) -> _T:
    try:
        return parse(content)
    except ValueError as error:
        raise CertificateError(
            f"{setting}: {path} holds no certificate in PEM", "name a file with -----BEGIN CERTIFICATE-----"
        ) from error


def _check_dates(setting: str, path: Path, certificate: x509.Certificate, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise CertificateError(
            f"{setting}: the certificate in {path} was valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M}"
            " UTC",
            "have it renewed (`lmms-eval-grpc certs renew`, where `certs init` has made it)",
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{setting}: the certificate in {path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            " on",
            "wait, or set this machine's clock right",
        )


def _check_key(files: CertificateFiles, certificate: x509.Certificate, content: bytes) -> None:
    try:
        key = load_pem_private_key(content, None)
    except TypeError as error:
        raise CertificateError(
            f"tls_key: {files.key} is encrypted", "store it without a passphrase, readable by the server's user only"
        ) from error
    except ValueError as error:
        raise CertificateError(
            f"tls_key: {files.key} holds no private key in PEM", "name a file with -----BEGIN PRIVATE KEY-----"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError(f"tls_key: {files.key} is of a kind that gRPC cannot use", "use an EC or an RSA key")
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise CertificateError(
            f"tls_key: {files.key} is not the key of the first certificate in {files.certificate}",
            "name the two that were made together, the server's own certificate before its intermediates",
        )
