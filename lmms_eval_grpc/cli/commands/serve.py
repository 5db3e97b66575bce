"""``serve``: runs a server in this process until it is told to stop."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.requirements import ENGINE_MODULES, require
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.engine.allocator import share_heaps
from lmms_eval_grpc.server import launch_server
from lmms_eval_grpc.server.config import settings
from lmms_eval_grpc.server.config_sources import load_args
from lmms_eval_grpc.server.settings import ConfigError
from lmms_eval_grpc.server.state_dir import ServerStartError

REQUIRED_MODULES = ("grpc_health", "grpc_reflection", "cryptography", *ENGINE_MODULES)
"""What the ``server`` extra brings and a server or a worker cannot do without."""


def run(args: argparse.Namespace, output: Output) -> int:
    """Blocks until the server has stopped."""
    require("serve", REQUIRED_MODULES)
    share_heaps()  # while there is one thread
    own = {setting.name for setting in settings()} | {"config"}
    try:
        launch_server(load_args({name: value for name, value in vars(args).items() if name in own}))
    except ConfigError as error:
        raise UsageError(str(error)) from error
    except ServerStartError as error:
        output.remark(f"error: {error}")
        return ExitCode.SERVER_ERROR
    return ExitCode.OK
