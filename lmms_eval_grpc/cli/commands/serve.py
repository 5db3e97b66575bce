"""``serve``: runs a server in this process until it is told to stop."""

from __future__ import annotations

import argparse
import importlib.util

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.server import launch_server
from lmms_eval_grpc.server.config import ConfigError, load_args, settings
from lmms_eval_grpc.server.state_dir import ServerStartError

REQUIRED_MODULES = (
    "grpc_health",
    "grpc_reflection",
    "yaml",
    "jinja2",
    "numpy",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "PIL",
)
"""What the ``server`` extra brings and a worker cannot do without; looked for, never imported here."""


def run(args: argparse.Namespace, output: Output) -> int:
    """Blocks until the server has stopped."""
    missing = [module for module in REQUIRED_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"serve needs packages that are not installed here ({', '.join(missing)});"
            ' install them with: pip install "lmms-eval-grpc[server]"'
        )
    own = {setting.name for setting in settings()} | {"config"}
    try:
        launch_server(load_args({name: value for name, value in vars(args).items() if name in own}))
    except ConfigError as error:
        raise UsageError(str(error)) from error
    except ServerStartError as error:
        output.remark(f"error: {error}")
        return ExitCode.SERVER_ERROR
    return ExitCode.OK
