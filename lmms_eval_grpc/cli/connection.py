"""The client that the commands talk through."""

from __future__ import annotations

import argparse
from typing import Any

from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client import EvalClient


def connect(args: argparse.Namespace, timeout: float | None = None) -> EvalClient:
    """A client for ``--address``, whose calls may take ``timeout`` seconds; dials at its first call.

    Raises:
        UsageError: the address is none, or the token cannot be used.
    """
    try:
        return EvalClient(args.address, timeout, **token_options(args))
    except ValueError as error:
        raise UsageError(str(error)) from error


def token_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a client that show who calls."""
    return {"token_file": args.token_file, "plaintext_token": args.plaintext_token}
