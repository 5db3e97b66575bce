"""The certificates that a server would show, and those by which it would know its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.server.exposure import is_loopback, means_any_address

if TYPE_CHECKING:
    from lmms_eval_grpc.server.certificates import LoadedCertificate


def check_certificates(setup: Setup) -> Iterator[Finding]:
    """Whether the server takes the files that the settings name; and for which hosts, and until when, they are good."""
    args = setup.args
    if args.tls_cert is None or args.tls_key is None:
        return  # That one of them is missing is told with the settings.
    try:
        from lmms_eval_grpc.server.certificates import CertificateError, CertificateFiles, list_impostors, load
    except ImportError:
        yield failure(
            "certificate", "TLS needs cryptography, which is not installed", 'pip install "lmms-eval-grpc[server]"'
        )
        return
    try:
        loaded = load(CertificateFiles(args.tls_cert, args.tls_key, args.tls_client_ca))
    except CertificateError as error:
        yield failure("certificate", error.problem, error.remedy)
        return
    yield _check_end(args.tls_cert, loaded)
    yield _check_names(args.tls_cert, loaded, args.host)
    yield _check_mode(args.tls_key)
    if loaded.client_ca is not None:
        impostors = list_impostors(loaded.client_ca)
        for subject in impostors:
            yield warning(
                "client authority",
                f"{args.tls_client_ca}: {subject} is no certificate authority",
                "name the authority that signs the clients' certificates",
            )
        if not impostors:
            yield ok("client authority", f"{args.tls_client_ca}: callers need a certificate")


def _check_end(path: Path, loaded: LoadedCertificate) -> Finding:
    until = f"{loaded.not_after:%Y-%m-%d %H:%M} UTC"
    if loaded.ends_soon():
        return warning("certificate", f"{path}: expires on {until}", "renew it before")
    return ok("certificate", f"{path}: valid until {until}")


def _check_names(path: Path, loaded: LoadedCertificate, host: str) -> Finding:
    if not loaded.names:
        return failure(
            "certificate",
            f"{path}: has no subject alternative name, so that no client accepts it",
            "issue one with the names and addresses by which clients call the server",
        )
    told = f"{path}: for {', '.join(loaded.names)}"
    if means_any_address(host) or is_loopback(host) or loaded.covers(host):
        return ok("certificate", told)
    return warning("certificate", f"{told}, but the server listens on {host}", "call it by one of these names")


def _check_mode(key: Path) -> Finding:
    if key.stat().st_mode & 0o077:
        return warning("key", f"other users may read {key}", f"chmod 600 {key}")
    return ok("key", f"{key} belongs to the certificate")
