"""How the clients dial: channel options, and which calls grpc itself retries."""

from __future__ import annotations

import json
from typing import Any

import grpc
import grpc.aio

from lmms_eval_grpc.client.address import Address
from lmms_eval_grpc.client.credentials import Credentials

SERVICE = "lmms_eval_grpc.v1.EvaluationService"
ADMIN_SERVICE = "lmms_eval_grpc.v1.AdminService"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

_MEBIBYTE = 2**20

# Every unary method may be retried: reads are harmless, CancelJob and all of the administrator's are idempotent, and
# Evaluate and MergeCheckpoint carry a request_id that makes them so. Five attempts are the most that grpc makes; these
# take about three seconds.
#
# Streams are left out. `streams` reconnects them anyway, and grpc can hang when it retries them (seen with 1.85: the
# server goes away before a watch has sent its first message, the attempts are used up, and the call never ends).
_RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2.5,
    # Never RESOURCE_EXHAUSTED: a full queue stays full for longer than retries last, and hammering it helps nobody.
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_RETRIED_METHODS = (
    "Evaluate",
    "GetJob",
    "ListJobs",
    "CancelJob",
    "MergeCheckpoint",
    "QueueStatus",
    "ListTasks",
    "ListModels",
    "GetServerInfo",
)


def open_channel(address: Address, credentials: Credentials) -> grpc.Channel:
    """A channel of the sync client. Raises ValueError where a file of the credentials cannot be read."""
    options = channel_options(address, credentials)
    if address.is_encrypted:
        return grpc.secure_channel(address.target, credentials.make(), options)
    return grpc.insecure_channel(address.target, options)


def open_aio_channel(address: Address, credentials: Credentials) -> grpc.aio.Channel:
    """A channel of the asyncio client, otherwise as `open_channel`."""
    options = channel_options(address, credentials)
    if address.is_encrypted:
        return grpc.aio.secure_channel(address.target, credentials.make(), options)
    return grpc.aio.insecure_channel(address.target, options)


def channel_options(address: Address, credentials: Credentials) -> list[tuple[str, Any]]:
    """Options of every channel that the clients open."""
    config = {
        "methodConfig": [
            {
                "name": [
                    *({"service": SERVICE, "method": method} for method in _RETRIED_METHODS),
                    {"service": ADMIN_SERVICE},
                ],
                "retryPolicy": _RETRY_POLICY,
            }
        ]
    }
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", 1),
        # Without this, grpc shares one connection between channels to the same server, and watches could starve calls.
        ("grpc.use_local_subchannel_pool", 1),
        # The results of a job may be larger than the default of 4 MiB.
        ("grpc.max_receive_message_length", 64 * _MEBIBYTE),
        # Rich errors travel in the trailers; over the default of 8 KiB the call would break instead of explaining.
        ("grpc.max_metadata_size", 64 * 1024),
        # A restarted server is found again soon.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # Half-open connections (a machine that lost power) are noticed while a call is in progress.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    if address.is_local:
        options.append(("grpc.enable_http_proxy", 0))
    if address.is_encrypted and credentials.server_name is not None:
        options.append(("grpc.ssl_target_name_override", credentials.server_name))
    return options
