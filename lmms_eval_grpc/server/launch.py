"""A server as a process of its own: its log, its signals, and the call that blocks until it has stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading

from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.config_sources import describe
from lmms_eval_grpc.server.interpreter import tuned_interpreter

logger = logging.getLogger(__name__)


def launch_server(args: ServerArgs | None = None) -> None:
    """Runs a server and blocks until it has stopped.

    The first SIGTERM or SIGINT stops it as :meth:`EvaluationServer.stop` says, a second one at once; it stops too when
    an administrator has drained it. Signals reach it only when it is called from the main thread; elsewhere use
    :class:`~lmms_eval_grpc.server.app.EvaluationServer`.

    Raises:
        ConfigError: the settings make no server that may be started.
        ServerStartError: the state folder, the store, a device or the port cannot be had.
    """
    args = args or ServerArgs()
    # gRPC's own messages say nothing that an operator could use, and must be silenced before it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    set_up_logging(args.log_level, args.log_format)
    logger.info("settings:\n%s", describe(args))
    asyncio.run(_serve(args))


def set_up_logging(level: str, form: str = "text") -> None:
    """Logs what this package says, and the warnings of others, to standard error, unless the program has set up logging
    itself.

    Args:
        form: one of :data:`~lmms_eval_grpc.server.config.LOG_FORMATS`.
    """
    from lmms_eval_grpc.server.call_log import AddContext, JsonFormatter, TextFormatter

    package = logging.getLogger("lmms_eval_grpc")
    package.setLevel(level.upper())
    if not package.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
        handler.addFilter(AddContext())
        logging.getLogger().addHandler(handler)


async def _serve(args: ServerArgs) -> None:
    from lmms_eval_grpc.server.app import EvaluationServer

    server = EvaluationServer(args)
    asked = asyncio.Event()
    starting = asyncio.create_task(server.start())
    hurrying: set[asyncio.Task[None]] = set()

    def on_signal(number: signal.Signals) -> None:
        logger.info("%s received", number.name)
        if not asked.is_set():
            asked.set()
        elif not starting.done():
            starting.cancel()
        else:
            hurrying.add(asyncio.create_task(server.stop(0)))

    if threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
    try:
        await starting
    except asyncio.CancelledError:
        if asked.is_set():
            return
        raise
    with tuned_interpreter():
        over = {asyncio.create_task(asked.wait()), asyncio.create_task(server.wait_closed())}
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        for waiting in over:
            waiting.cancel()
        # It has stopped already if it was drained.
        await server.stop()
        await asyncio.gather(*hurrying)
