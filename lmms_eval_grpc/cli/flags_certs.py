"""Flags of ``certs``: what it does is a word of its own."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    init = _add(actions, "init", "Make an authority in DIR, and a certificate for the server.")
    _add_hosts(init, "beside this machine's name, localhost, 127.0.0.1 and ::1")
    _add_force(init)
    client = _add(actions, "client", "Make a certificate for a client.")
    client.add_argument("name", metavar="NAME", help="whom the server takes its holder for")
    _add_force(client)
    renew = _add(actions, "renew", "Issue the server's certificate anew; a server that runs takes it up.")
    _add_hosts(renew, "beside those that it is for")
    _add(actions, "show", "Say what is in DIR, and until when it is valid.")


def _add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the authority")
    # Of every command; here they may stand behind the action, too.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, for programs")
    parser.add_argument("--plain", action="store_true", default=argparse.SUPPRESS, help="plain lines")
    return parser


def _add_hosts(parser: argparse.ArgumentParser, others: str) -> None:
    parser.add_argument(
        "--host",
        action="append",
        dest="hosts",
        default=[],
        metavar="NAME",
        help=f"host name or IP address that clients dial, {others}; may be repeated",
    )


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace what is there")
