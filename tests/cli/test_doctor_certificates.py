"""``doctor`` on certificates, made here as an operator would have them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lmms_eval_grpc.cli.doctor.certificates import check_certificates
from lmms_eval_grpc.cli.doctor.finding import Finding, Level
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.server.config import ServerArgs

x509 = pytest.importorskip("cryptography.x509")

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Made:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


def make(
    folder: Path,
    name: str = "server",
    *,
    first: timedelta = -DAY,
    last: timedelta = 90 * DAY,
    names: tuple[str, ...] | None = ("gpu-1.example.org", "*.lab.example.org", "10.0.0.7"),
    authority: bool = False,
) -> Made:
    """A self-signed certificate that is valid from ``first`` to ``last``, counted from now."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now + first).not_valid_after(now + last)
    built = built.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if names is not None:
        entries = [
            x509.IPAddress(ipaddress.ip_address(one)) if one[0].isdigit() else x509.DNSName(one) for one in names
        ]
        built = built.add_extension(x509.SubjectAlternativeName(entries), critical=False)
    made = Made(folder / f"{name}.pem", folder / f"{name}.key")
    made.certificate.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    made.key.chmod(0o600)
    return made


def findings(made: Made, host: str = "gpu-1.example.org", authorities: Path | None = None) -> list[Finding]:
    args = ServerArgs(host=host, tls_cert=made.certificate, tls_key=made.key, tls_client_ca=authorities)
    return list(check_certificates(Setup(args, {})))


def worst(told: list[Finding]) -> Finding:
    """The only finding that is not well."""
    (one,) = [one for one in told if one.level is not Level.OK]
    assert one.remedy
    return one


@pytest.mark.parametrize(
    "host", ["gpu-1.example.org", "node.lab.example.org", "10.0.0.7", "0.0.0.0", "::", "127.0.0.1"]
)
def test_a_certificate_that_is_well(tmp_path: Path, host: str) -> None:
    made = make(tmp_path)
    authority = make(tmp_path, "authority", authority=True, names=None)
    told = findings(made, host, authority.certificate)
    assert [(one.check, one.level) for one in told] == [
        ("certificate", Level.OK),
        ("certificate", Level.OK),
        ("key", Level.OK),
        ("client authority", Level.OK),
    ]


@pytest.mark.parametrize(
    ("first", "last", "level", "words"),
    [
        (-9 * DAY, -DAY, Level.FAILURE, "was valid until"),
        (DAY, 9 * DAY, Level.FAILURE, "is valid from"),
        (-DAY, 9 * DAY, Level.WARNING, "expires on"),
    ],
)
def test_a_certificate_is_valid_for_a_time(
    tmp_path: Path, first: timedelta, last: timedelta, level: Level, words: str
) -> None:
    problem = worst(findings(make(tmp_path, first=first, last=last)))
    assert (problem.check, problem.level) == ("certificate", level)
    assert words in problem.message


@pytest.mark.parametrize("host", ["gpu-2.example.org", "lab.example.org", "a.b.lab.example.org", "10.0.0.8"])
def test_a_certificate_for_other_names_is_a_warning(tmp_path: Path, host: str) -> None:
    problem = worst(findings(make(tmp_path), host))
    assert problem.level is Level.WARNING
    assert f"listens on {host}" in problem.message


def test_a_certificate_without_names_is_a_failure(tmp_path: Path) -> None:
    problem = worst(findings(make(tmp_path, names=None)))
    assert problem.level is Level.FAILURE
    assert "no subject alternative name" in problem.message


def test_a_key_that_is_anothers_unreadable_by_others_or_none(tmp_path: Path) -> None:
    made, other = make(tmp_path), make(tmp_path, "other")
    problem = worst(findings(Made(made.certificate, other.key)))
    assert problem.level is Level.FAILURE
    assert "is not the key of" in problem.message
    made.key.chmod(0o644)
    assert worst(findings(made)).remedy == f"chmod 600 {made.key}"
    problem = worst(findings(Made(made.certificate, tmp_path / "missing")))
    assert "cannot be read: No such file" in problem.message


def test_files_that_are_no_certificates_are_failures(tmp_path: Path) -> None:
    made = make(tmp_path)
    made.certificate.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    problem = worst(findings(made))
    assert problem.level is Level.FAILURE
    assert "holds no certificate" in problem.message
    problem = worst(findings(Made(tmp_path / "missing", made.key)))
    assert "tls_cert: " in problem.message
    assert "cannot be read" in problem.message


def test_who_signs_for_clients_has_to_be_an_authority(tmp_path: Path) -> None:
    plain = make(tmp_path, "plain")
    problem = worst(findings(make(tmp_path), authorities=plain.certificate))
    assert (problem.check, problem.level) == ("client authority", Level.WARNING)
    assert "CN=plain" in problem.message
    expired = make(tmp_path, "expired", first=-9 * DAY, last=-DAY, authority=True)
    problem = worst(findings(make(tmp_path), authorities=expired.certificate))
    assert problem.level is Level.FAILURE
    assert "tls_client_ca: " in problem.message
    # While an authority is replaced the old one may have ended already.
    both = tmp_path / "both.pem"
    valid = make(tmp_path, "valid", authority=True)
    both.write_bytes(expired.certificate.read_bytes() + valid.certificate.read_bytes())
    assert {one.level for one in findings(make(tmp_path), authorities=both)} == {Level.OK}


def test_without_certificates_nothing_is_said() -> None:
    assert list(check_certificates(Setup(ServerArgs(), {}))) == []
