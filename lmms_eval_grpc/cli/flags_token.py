"""The flags of ``token``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lmms_eval_grpc.cli import arguments
from lmms_eval_grpc.cli.flags_evaluation import spell

ROLES = ("read", "submit", "admin")
FILE_VARIABLE = "LMMS_EVAL_GRPC_ACCESS_FILE"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What can be done, and with which file."""
    variable = os.environ.get(FILE_VARIABLE)
    _add_file(parser, default=Path(variable) if variable else None)
    actions = parser.add_subparsers(dest="action", metavar="action", title="actions", required=True)
    summary = "Make a token and print it, this once; only its hash is kept."
    create = actions.add_parser("create", help=summary, description=summary)
    create.add_argument("name", metavar="NAME", help="who it is for; jobs show it as their owner")
    create.add_argument(
        "--role", choices=ROLES, required=True, help="read: see everything; submit: and submit jobs; admin: everything"
    )
    create.add_argument(
        "--expires",
        type=arguments.parse_duration,
        metavar="TIME",
        help="how long it is valid, such as 12h or 30d (default: until it is revoked)",
    )
    create.add_argument(
        "--another", action="store_true", help="beside what NAME has, for the time until a new token is everywhere"
    )
    create.add_argument("--certificate", action="store_true", help="no token: NAME is the name in a client certificate")
    summary = "Show who has access, with which role and until when."
    shown = actions.add_parser("list", help=summary, description=summary)
    summary = "Take access away; a server that runs heeds it at once."
    revoke = actions.add_parser("revoke", help=summary, description=summary)
    revoke.add_argument("name", metavar="NAME", help="all that NAME has, or the one token with this id")
    for action in (create, shown, revoke):
        # What may stand before the action may stand after it; the default there must not overwrite what was given here.
        _add_file(action, default=argparse.SUPPRESS)
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, for programs")


def _add_file(parser: argparse.ArgumentParser, *, default: Path | str | None) -> None:
    parser.add_argument(
        *spell("access_file"),
        type=Path,
        metavar="FILE",
        default=default,
        help=f"the server's access_file; also in {FILE_VARIABLE}. Asks no server",
    )
