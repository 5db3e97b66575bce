"""``top``: devices, queue and recent scores, live on the terminal."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect, credential_options
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.usage import UsageError


def run(args: argparse.Namespace, output: Output) -> int:
    """Shows the server until the user leaves."""
    if not output.is_terminal or output.as_json:
        raise UsageError("top draws on a terminal; for programs and pipes there is: queue --follow --json")
    try:
        from lmms_eval_grpc.cli.top import Top
    except ImportError as error:
        raise UsageError('top needs Textual; install it with: pip install "lmms-eval-grpc[top]"') from error
    # Watches go on trying while a server is away; a call that fails tells at once that there is none.
    with connect(args) as client:
        client.server_info()
    app = Top(args.address, **credential_options(args))
    app.run()
    if app.failure is not None:
        raise app.failure
    return ExitCode.OK
