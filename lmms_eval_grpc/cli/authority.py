"""A certificate authority for development: a folder with its certificate and key, the server's, and the clients'."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lmms_eval_grpc.server.certificates import list_names

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
_CLOCK_SKEW = timedelta(minutes=5)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?", re.ASCII)
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*", re.ASCII)


class AuthorityError(Exception):
    """What was asked for cannot be done in this folder. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate and its private key lie, both as PEM."""

    certificate: Path
    key: Path


class Authority:
    """The authority of a folder.

    Args:
        folder: where its files are, or shall be.
        now: the time that validity is counted from. None: this moment.
    """

    def __init__(self, folder: Path, *, now: datetime | None = None) -> None:
        self.folder = folder
        self.own = Pair(folder / "ca.pem", folder / "ca.key")
        self.server = Pair(folder / "server.pem", folder / "server.key")
        self._now = now or datetime.now(UTC)

    def client(self, name: str) -> Pair:
        """The files of a client. Raises AuthorityError where ``name`` makes no file name."""
        if not _NAME.fullmatch(name):
            raise AuthorityError(
                f"{name!r} names no client: use up to 64 letters, digits, dots, dashes, underscores and @"
            )
        return Pair(self.folder / "clients" / f"{name}.pem", self.folder / "clients" / f"{name}.key")

    def create(self, hosts: Sequence[str] = (), *, force: bool = False) -> None:
        """Makes the authority, and the server's certificate for ``hosts``, this machine's name and loopback.

        Raises:
            AuthorityError: a host is none, or, without ``force``, there is an authority already.
        """
        names = _name_hosts([*hosts, *_own_hosts()])
        for pair in (self.own, self.server):
            _refuse_to_replace(pair, force, "certificates that it has signed are then refused")
        key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: software that knows two authorities by one name takes the wrong one.
        subject = _subject(f"lmms-eval-grpc development {secrets.token_hex(4)}")
        usage = _key_usage(signs_certificates=True)
        extensions = [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)]
        built = self._begin(subject, subject, key, AUTHORITY_DAYS, extensions)
        _make_folder(self.folder)
        _write_pair(self.own, built.sign(key, hashes.SHA256()), key)
        self._issue(self.server, _subject(hosts[0] if hosts else "localhost"), names, ExtendedKeyUsageOID.SERVER_AUTH)

    def renew_server(self, hosts: Sequence[str] = ()) -> None:
        """Issues the server's certificate anew, with a new key, for the names it had and ``hosts``.

        Raises:
            AuthorityError: there is no authority, or no certificate to renew.
        """
        old = _read_certificate(self.server.certificate)
        names = _name_hosts([*hosts, *list_names(old)])
        self._issue(self.server, old.subject, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_client(self, name: str, *, force: bool = False) -> Pair:
        """Makes a client's certificate with ``name`` as its common name, and returns where it is.

        Raises:
            AuthorityError: the name is none, there is no authority, or, without ``force``, the client has one already.
        """
        pair = self.client(name)
        _refuse_to_replace(pair, force, "the old one stays valid")
        _read_certificate(self.own.certificate)
        _make_folder(pair.certificate.parent)
        self._issue(pair, _subject(name), [], ExtendedKeyUsageOID.CLIENT_AUTH)
        return pair

    def certificates(self) -> list[tuple[Path, x509.Certificate]]:
        """All certificates in the folder: the authority's, the server's, then the clients' by name.

        Raises:
            AuthorityError: there is no authority, or a file holds no certificate.
        """
        paths = [self.own.certificate, self.server.certificate, *sorted((self.folder / "clients").glob("*.pem"))]
        return [(path, _read_certificate(path)) for path in paths]

    def has_signed(self, certificate: x509.Certificate) -> bool:
        """Whether this authority has signed ``certificate``, or it is its own."""
        try:
            certificate.verify_directly_issued_by(_read_certificate(self.own.certificate))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _issue(
        self, pair: Pair, subject: x509.Name, names: Sequence[x509.GeneralName], purpose: x509.ObjectIdentifier
    ) -> None:
        authority, signer = _read_certificate(self.own.certificate), _read_key(self.own.key)
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage([purpose]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        ]
        if names:
            extensions.append((x509.SubjectAlternativeName(names), False))
        built = self._begin(subject, authority.subject, key, CERTIFICATE_DAYS, extensions)
        _write_pair(pair, built.sign(signer, hashes.SHA256()), key)

    def _begin(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        days: int,
        extensions: Iterable[tuple[x509.ExtensionType, bool]],
    ) -> x509.CertificateBuilder:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _CLOCK_SKEW)
            .not_valid_after(self._now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder


def _own_hosts() -> list[str]:
    own = socket.gethostname()
    return [*([own] if _HOST.fullmatch(own) else []), "localhost", "127.0.0.1", "::1"]


def _name_hosts(hosts: Iterable[str]) -> list[x509.GeneralName]:
    names: dict[str, x509.GeneralName] = {}
    for host in hosts:
        try:
            names[host] = x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            if not _HOST.fullmatch(host):
                raise AuthorityError(
                    f"--host {host!r} is neither a host name nor an IP address; leave out scheme, port and path"
                ) from None
            names[host] = x509.DNSName(host)
    return list(names.values())


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _refuse_to_replace(pair: Pair, force: bool, consequence: str) -> None:
    for path in (pair.certificate, pair.key):
        if path.exists() and not force:
            raise AuthorityError(f"{path} is there already; --force replaces it ({consequence})")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AuthorityError(f"{folder} cannot be made: {error.strerror}; choose another folder") from error


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise AuthorityError(f"{path} is not there; make it with: lmms-eval-grpc certs init {path.parent}") from None
    except OSError as error:
        raise AuthorityError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise AuthorityError(f"{path} holds no certificate in PEM; restore it, or start anew with --force") from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise AuthorityError(f"{path} cannot be read: {error.strerror}; only who has it can sign") from error
    except (ValueError, TypeError) as error:
        raise AuthorityError(f"{path} holds no private key in PEM; restore it, or start anew with --force") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError(f"{path} holds another kind of key than `certs init` makes; start anew with --force")
    return key


def _write_pair(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write(pair.key, key.private_bytes(serialization.Encoding.PEM, form, none), 0o600)
    _write(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replaces the file as a whole, so that a server that reads it meanwhile sees the old or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError as error:
        raise AuthorityError(f"{path} cannot be written: {error.strerror}") from error
