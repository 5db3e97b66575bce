"""``certs``: an authority for development, and the certificates that it signs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.requirements import require
from lmms_eval_grpc.cli.usage import UsageError

if TYPE_CHECKING:
    from lmms_eval_grpc.cli.authority import Authority, Pair

_PROGRAM = "lmms-eval-grpc"


def run(args: argparse.Namespace, output: Output) -> int:
    """Does what ``args.action`` says in the folder ``args.folder``."""
    require("certs", ("cryptography",))
    from lmms_eval_grpc.cli.authority import Authority, AuthorityError

    authority = Authority(args.folder.expanduser().absolute())
    try:
        _ACTIONS[args.action](authority, args, output)
    except AuthorityError as error:
        raise UsageError(str(error)) from error
    return ExitCode.OK


def _init(authority: Authority, args: argparse.Namespace, output: Output) -> None:
    authority.create(args.hosts, force=args.force)
    pairs = {"ca": authority.own, "server": authority.server}
    if output.as_json:
        output.document({name: _files(pair) for name, pair in pairs.items()})
        return
    _tell_files(output, pairs)
    folder = str(authority.folder)
    _tell_command(output, "start the server", _serve_words(authority, args.hosts))
    _tell_command(output, "make a certificate for each caller", [_PROGRAM, "certs", "client", folder, "NAME"])
    _tell_command(output, "renew the server's within a year, also while it runs", [_PROGRAM, "certs", "renew", folder])
    output.remark(f"who has {authority.own.key} can make certificates: it may stay on this machine")


def _client(authority: Authority, args: argparse.Namespace, output: Output) -> None:
    pair = authority.issue_client(args.name, force=args.force)
    if output.as_json:
        output.document({"client": _files(pair), "ca": str(authority.own.certificate)})
        return
    _tell_files(output, {"client": pair})
    flags = ["--ca", authority.own.certificate, "--cert", pair.certificate, "--key", pair.key]
    words = [_PROGRAM, "info", "--address", f"grpcs://{_server_host(authority)}:50051", *map(str, flags)]
    _tell_command(output, f"call it as {args.name}; copy these three files where that is to happen", words)


def _renew(authority: Authority, args: argparse.Namespace, output: Output) -> None:
    authority.renew_server(args.hosts)
    _show(authority, args, output)


def _show(authority: Authority, args: argparse.Namespace, output: Output) -> None:
    from lmms_eval_grpc.server.certificates import list_names

    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    for path, certificate in authority.certificates():
        rows.append(
            {
                "file": str(path),
                "subject": certificate.subject.rfc4514_string(),
                "hosts": list_names(certificate),
                "valid_until": certificate.not_valid_after_utc.isoformat(),
                "expired": certificate.not_valid_after_utc < now,
                "signed_by_this_authority": authority.has_signed(certificate),
            }
        )
    if output.as_json:
        output.document({"certificates": rows})
        return
    headings = ("file", "for", "hosts", "valid until", "remark")
    cells = [
        (
            str(Path(row["file"]).relative_to(authority.folder)),
            row["subject"],
            ", ".join(row["hosts"]),
            row["valid_until"][:10],
            _remark(row),
        )
        for row in rows
    ]
    output.table(Table(headings, cells, foldable=frozenset({"hosts"})))


_ACTIONS: Mapping[str, Callable[[Authority, argparse.Namespace, Output], None]] = {
    "init": _init,
    "client": _client,
    "renew": _renew,
    "show": _show,
}


def _files(pair: Pair) -> dict[str, str]:
    return {"certificate": str(pair.certificate), "key": str(pair.key)}


def _tell_files(output: Output, pairs: Mapping[str, Pair]) -> None:
    for name, pair in pairs.items():
        output.line(f"{name:<6}  certificate {pair.certificate}")
        output.line(f"{'':<6}  private key {pair.key}")


def _tell_command(output: Output, purpose: str, words: list[str]) -> None:
    output.line(f"\n# {purpose}:")
    output.line(shlex.join(words))


def _serve_words(authority: Authority, hosts: list[str]) -> list[str]:
    flags = {"--tls-cert": authority.server.certificate, "--tls-key": authority.server.key}
    words = [_PROGRAM, "serve", *(["--host", "0.0.0.0"] if hosts else [])]
    for flag, path in {**flags, "--tls-client-ca": authority.own.certificate}.items():
        words += [flag, str(path)]
    return words


def _server_host(authority: Authority) -> str:
    """The first name that the server's certificate is for."""
    from lmms_eval_grpc.server.certificates import list_names

    names = list_names(dict(authority.certificates())[authority.server.certificate])
    first = next((name for name in names if "*" not in name), "localhost")
    return f"[{first}]" if ":" in first else first


def _remark(row: Mapping[str, Any]) -> str:
    if not row["signed_by_this_authority"]:
        return "signed by another authority: of no use here"
    return "expired" if row["expired"] else ""
