"""Whether there are traces, and where they go."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lmms_eval_grpc.server.state_dir import ServerStartError

if TYPE_CHECKING:
    from lmms_eval_grpc.server.tracing.service import Tracing

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_PATH = "/v1/traces"
_REMEDY = "pip install 'lmms-eval-grpc[tracing]'"


def open_tracing(endpoint: str, environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """Traces that go to ``endpoint``, a collector's URL, or where OpenTelemetry's own variables say; None where neither
    says anything. What else those variables set (headers, timeouts, the sampler, the service's name) holds as well.

    Raises:
        ServerStartError: ``endpoint`` is no URL that can be used, or OpenTelemetry is not installed. That variables
            which may be meant for other programs ask for something that cannot be had is a warning only.
    """
    if endpoint:
        _check(endpoint)
        if not _installed():
            raise ServerStartError(f"otlp_endpoint: traces need OpenTelemetry: {_REMEDY}, or leave the setting out")
        return _make(endpoint.rstrip("/") + _PATH)
    named = next((name for name in _ENDPOINTS if environ.get(name)), None)
    if named is None or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    for name in _PROTOCOLS:
        if environ.get(name, _PROTOCOL) != _PROTOCOL:
            logger.warning(
                "%s is %r: this server sends traces by %s only; name a collector's port for that in otlp_endpoint."
                " There are no traces",
                *(name, environ[name], _PROTOCOL),
            )
            return None
        if name in environ:
            break
    if not _installed():
        logger.warning("%s is set, but traces need OpenTelemetry: %s. There are no traces", named, _REMEDY)
        return None
    return _make(None)


def _check(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ServerStartError(
            f"otlp_endpoint: {endpoint!r} is not the URL of a collector; write it like http://127.0.0.1:4318"
        )
    if parts.username or parts.password:
        raise ServerStartError(
            "otlp_endpoint: the URL holds a password, which would be in the log; put it into the environment variable"
            " OTEL_EXPORTER_OTLP_HEADERS (Authorization=Basic%20…)"
        )


def _installed() -> bool:
    try:
        return all(map(importlib.util.find_spec, ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")))
    except ModuleNotFoundError:
        return False


def _make(endpoint: str | None) -> Tracing:
    from lmms_eval_grpc.server.tracing.service import Tracing

    return Tracing(endpoint)
