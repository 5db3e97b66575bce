"""The gRPC server: configuration, the application, the servicer and everything that guards it.

What lives here turns calls into domain calls and back: ``config`` (settings from flags, environment and file), ``app``
(builds the parts, starts and stops them in order), ``launch`` (a blocking server process with signals), ``servicer``,
``watch`` and ``streams`` (the methods), ``convert_*`` (the only place where the domain meets the public messages),
``validate``, ``errors`` (one table from domain errors to statuses), ``interceptors``, ``auth`` (who may do
what), ``health`` and ``reflection``.
What runs when is the scheduler's business, what is durable the store's, and evaluation the worker's: nothing here
imports torch, transformers or datasets.
"""

from __future__ import annotations

from lmms_eval_grpc.server.config import ServerArgs

__all__ = ["ServerArgs", "launch_server"]


def launch_server(args: ServerArgs | None = None) -> None:
    """Runs a server until SIGTERM or SIGINT; see :func:`lmms_eval_grpc.server.launch.launch_server`."""
    from lmms_eval_grpc.server.launch import launch_server as launch

    launch(args)
