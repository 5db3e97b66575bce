"""The client that the commands talk through."""

from __future__ import annotations

import argparse
from typing import Any

from lmms_eval_grpc.cli.parser import TLS_FLAGS
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client import Credentials, EvalClient


def read_credentials(args: argparse.Namespace) -> Credentials | None:
    """What ``--ca``, ``--cert``, ``--key`` and ``--server-name`` say, and for the rest the environment.

    None: no flag is given, and the client looks into the environment for itself.
    """
    given = {name: getattr(args, name) for name in TLS_FLAGS}
    return Credentials.from_environment(**given) if any(given.values()) else None


def connect(args: argparse.Namespace, timeout: float | None = None) -> EvalClient:
    """A client for ``--address``, whose calls may take ``timeout`` seconds; dials at its first call.

    Raises:
        UsageError: the address is none, or the token or a file of the credentials cannot be used.
    """
    try:
        return EvalClient(args.address, timeout, **credential_options(args))
    except ValueError as error:
        raise UsageError(str(error)) from error


def credential_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a client that say what to trust and what to show."""
    return {
        "credentials": read_credentials(args),
        "token_file": args.token_file,
        "plaintext_token": args.plaintext_token,
    }
