"""The client that the commands talk through."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client import EvalClient


def connect(args: argparse.Namespace, timeout: float | None = None) -> EvalClient:
    """A client for ``--address``, whose calls may take ``timeout`` seconds; dials at its first call.

    Raises:
        UsageError: the address is none.
    """
    try:
        return EvalClient(args.address, timeout)
    except ValueError as error:
        raise UsageError(str(error)) from error
