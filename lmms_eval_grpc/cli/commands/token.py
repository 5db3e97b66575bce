"""``token``: who may call a server, by the file of its setting ``access_file``."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.server.auth.access_file import add_entry, read_entries, remove_entries
from lmms_eval_grpc.server.auth.entries import ROLES, BadEntry, Entry, Kind, check_name, hash_token, new_token

HEADINGS = ("name", "role", "kind", "id", "created", "expires")


def run(args: argparse.Namespace, output: Output) -> int:
    """Changes or shows the file; a server that runs heeds it at its next call."""
    if args.access_file is None:
        raise UsageError("which file? give --access-file, or set LMMS_EVAL_GRPC_ACCESS_FILE, as for the server")
    try:
        {"create": _create, "list": _list, "revoke": _revoke}[args.action](args, output)
    except BadEntry as error:
        raise UsageError(str(error)) from error
    return ExitCode.OK


def _create(args: argparse.Namespace, output: Output) -> None:
    kind: Kind = "certificate" if args.certificate else "token"
    check_name(args.name, kind)
    now = datetime.now(UTC)
    token = None if args.certificate else new_token()
    entry = Entry(
        kind=kind,
        name=args.name,
        role=ROLES[args.role],
        created=now,
        sha256="" if token is None else hash_token(token),
        expires=None if args.expires is None else now + timedelta(seconds=args.expires),
    )
    add_entry(args.access_file, entry, another=args.another)
    if output.as_json:
        output.document(_describe(entry) | ({} if token is None else {"token": token}))
        return
    until = "does not expire" if entry.expires is None else f"expires {_show(entry.expires)}"
    if token is None:
        output.remark(f"certificates of {entry.name} have the role {entry.role.word}; {until}")
        return
    output.line(token)
    output.remark(f"the token of {entry.name}, role {entry.role.word}, {until}; it is shown only now")


def _list(args: argparse.Namespace, output: Output) -> None:
    entries = read_entries(args.access_file)
    if output.as_json:
        output.document({"entries": [_describe(entry) for entry in entries]})
    elif entries:
        now = datetime.now(UTC)
        output.table(Table(HEADINGS, [_make_row(entry, now) for entry in entries]))
    else:
        output.remark("nobody")


def _revoke(args: argparse.Namespace, output: Output) -> None:
    removed = remove_entries(args.access_file, args.name)
    if output.as_json:
        output.document({"revoked": [_describe(entry) for entry in removed]})
        return
    for entry in removed:
        output.line(f"revoked: the {entry.kind} of {entry.name}{f' ({entry.id})' if entry.id else ''}")


def _make_row(entry: Entry, now: datetime) -> tuple[str, ...]:
    expires = "never" if entry.expires is None else _show(entry.expires)
    if not entry.is_valid(now):
        expires += " (past)"
    return (entry.name, entry.role.word, entry.kind, entry.id, _show(entry.created), expires)


def _describe(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "role": entry.role.word,
        "kind": entry.kind,
        "id": entry.id,
        "created": entry.created.isoformat(timespec="seconds"),
        "expires": None if entry.expires is None else entry.expires.isoformat(timespec="seconds"),
    }


def _show(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M")
