"""``certs``: what it makes, what it refuses, and that what it prints works."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from lmms_eval_grpc.cli.authority import Authority
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.server.certificates import list_names
from tests.cli.conftest import PATIENCE, NewRig, environment, run_command, serving
from tests.support.tls import server_settings


def make(*words: object) -> str:
    """What `certs` prints when it is done."""
    done = run_command("certs", *map(str, words))
    assert done.returncode == ExitCode.OK, done.stderr
    return done.stdout


def refused(*words: object) -> str:
    done = run_command("certs", *map(str, words))
    assert done.returncode == ExitCode.USAGE
    assert "Traceback" not in done.stderr
    return done.stderr


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def printed_command(text: str, *start: str) -> list[str]:
    """The words of the one printed command that starts so, without the program's name."""
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("lmms-eval-grpc ")]
    (found,) = [words[1:] for words in commands if words[1 : 1 + len(start)] == list(start)]
    return found


def test_an_authority_and_what_it_signs(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "tls"
    make("init", folder, "--host", "eval.example", "--host", "10.0.0.7")
    make("client", folder, "alice")
    assert mode(folder) == mode(folder / "clients") == 0o700
    assert {mode(path) for path in folder.rglob("*.key")} == {0o600}
    ca, server, alice = (read(folder / name) for name in ("ca.pem", "server.pem", "clients/alice.pem"))
    names = list_names(server)
    assert names[:1] == ["eval.example"]
    assert {"eval.example", "10.0.0.7", "localhost", "127.0.0.1", "::1"} <= set(names)
    for certificate, purpose in ((server, ExtendedKeyUsageOID.SERVER_AUTH), (alice, ExtendedKeyUsageOID.CLIENT_AUTH)):
        certificate.verify_directly_issued_by(ca)
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca) == (True, False)
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        assert timedelta(days=360) < left < timedelta(days=400)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert alice.subject.rfc4514_string() == "CN=alice"


def test_nothing_is_replaced_unless_told_so(tmp_path: Path) -> None:
    make("init", tmp_path)
    make("client", tmp_path, "alice")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "ca.pem is there already; --force replaces it" in refused("init", tmp_path)
    assert "alice.pem is there already; --force replaces it" in refused("client", tmp_path, "alice")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    make("client", tmp_path, "alice", "--force")
    assert (tmp_path / "clients" / "alice.pem").read_bytes() != before[tmp_path / "clients" / "alice.pem"]
    make("init", tmp_path, "--force")
    (row,) = [row for row in make("show", tmp_path, "--plain").splitlines() if "alice" in row]
    assert "signed by another authority" in row


def test_renewing_keeps_the_authority_and_the_names(tmp_path: Path) -> None:
    make("init", tmp_path, "--host", "eval.example")
    ca, old, old_key = (tmp_path / name for name in ("ca.pem", "server.pem", "server.key"))
    before = (ca.read_bytes(), read(old), old_key.read_bytes())
    told = make("renew", tmp_path, "--host", "second.example")
    assert "server.pem" in told
    renewed = read(old)
    assert ca.read_bytes() == before[0]
    assert renewed.serial_number != before[1].serial_number
    assert old_key.read_bytes() != before[2]
    assert mode(old_key) == 0o600
    assert set(list_names(renewed)) == {*list_names(before[1]), "second.example"}
    renewed.verify_directly_issued_by(read(ca))


def test_show_says_until_when(tmp_path: Path) -> None:
    old = Authority(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=400))
    old.create()
    rows = {row.split()[0]: row for row in make("show", old.folder, "--plain").splitlines()}
    assert rows["server.pem"].endswith("expired")
    assert not rows["ca.pem"].endswith("expired")
    document = json.loads(make("show", old.folder, "--json"))
    assert [row["expired"] for row in document["certificates"]] == [False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("init", "DIR", "--host", "https://eval.example"), "'https://eval.example' is neither a host name nor an IP"),
        (("client", "DIR", "../ca"), "'../ca' names no client"),
        (("client", "DIR", ""), "'' names no client"),
        (("client", "DIR", "alice"), "ca.pem is not there; make it with: lmms-eval-grpc certs init"),
        (("renew", "DIR"), "server.pem is not there; make it with: lmms-eval-grpc certs init"),
        (("show", "DIR"), "ca.pem is not there"),
        (("init", "DIR/file/tls"), "cannot be made"),
        (("sign", "DIR"), "invalid choice: 'sign'"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_remedy(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "file").touch()
    assert message in refused(*(word.replace("DIR", str(tmp_path)) for word in words))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_its_key_an_authority_signs_nothing(tmp_path: Path) -> None:
    make("init", tmp_path)
    (tmp_path / "ca.key").unlink()
    assert "ca.key cannot be read" in refused("client", tmp_path, "alice")
    (tmp_path / "ca.key").write_text("garbage")
    assert "ca.key holds no private key" in refused("renew", tmp_path)


def test_the_printed_commands_start_a_server_and_call_it(tmp_path: Path) -> None:
    folder = tmp_path / "a b"  # quoted where it must be
    serve = printed_command(make("init", folder), "serve")
    client = printed_command(make("client", folder, "alice"), "info")
    with serving(serve, tmp_path) as address:
        assert address.startswith("grpcs://127.0.0.1:")
        client[client.index("--address") + 1] = address
        done = run_command(*client)
        assert done.returncode == ExitCode.OK, done.stderr
        assert address in done.stdout
        # The same flags before the command's name.
        flags = [word for word in client if word not in ("info", "--address", address)]
        assert run_command(*flags, f"--address={address}", "info").returncode == ExitCode.OK
        without = run_command("info", "--address", address, "--ca", str(folder / "ca.pem"))
        assert without.returncode == ExitCode.UNREACHABLE
        assert "(cert, key)" in without.stderr


def test_flags_and_environment_say_the_same(tmp_path: Path, new_rig: NewRig) -> None:
    authority = Authority(tmp_path / "tls")
    authority.create()
    alice = authority.issue_client("alice")
    rig = new_rig(**server_settings(authority, mutual=True))
    variables = {
        "LMMS_EVAL_GRPC_CA": str(authority.own.certificate),
        "LMMS_EVAL_GRPC_CERT": str(alice.certificate),
        "LMMS_EVAL_GRPC_KEY": str(alice.key),
    }
    assert rig.run("queue", **variables).returncode == ExitCode.OK
    # A flag wins; the rest is the environment's.
    other = rig.run("queue", "--server-name", "other.example", **variables)
    assert other.returncode == ExitCode.UNREACHABLE
    assert "(server_name)" in other.stderr
    wrong = rig.run("queue", "--ca", str(tmp_path / "none.pem"), **variables)
    assert wrong.returncode == ExitCode.USAGE
    assert "none.pem': cannot be read" in wrong.stderr


def test_without_the_library_the_remedy_is_named(tmp_path: Path) -> None:
    program = "import sys; sys.modules['cryptography'] = None; from lmms_eval_grpc.cli import main; sys.exit(main())"
    words: list[Any] = [sys.executable, "-c", program, "certs", "init", tmp_path]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == ExitCode.USAGE
    assert 'pip install "lmms-eval-grpc[server]"' in done.stderr
