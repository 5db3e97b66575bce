"""The HTTP endpoint of the metrics: the client library's own server, on threads beside the event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from lmms_eval_grpc.server.state_dir import ServerStartError


@dataclass(frozen=True, slots=True)
class MetricsEndpoint:
    """Serves a registry from :func:`open_endpoint` on until it is closed."""

    address: str
    """``host:port``."""
    _server: WSGIServer
    _thread: Thread

    async def close(self) -> None:
        """Returns when it answers no more."""
        await asyncio.to_thread(self._server.shutdown)
        self._thread.join()
        self._server.server_close()


def open_endpoint(registry: CollectorRegistry, host: str, port: int) -> MetricsEndpoint:
    """Serves ``registry`` at every path. Raises ServerStartError."""
    bare = host.strip("[]")
    try:
        server, thread = start_http_server(port, bare, registry)
    except OSError as error:
        raise ServerStartError(
            f"metrics_port: cannot listen on {host}:{port}: {error.strerror or error}; choose another metrics_port or"
            " metrics_host (port 0 takes any free one)"
        ) from error
    shown = f"[{bare}]" if ":" in bare else bare
    return MetricsEndpoint(f"{shown}:{server.server_port}", server, thread)
