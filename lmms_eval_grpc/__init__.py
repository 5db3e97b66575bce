"""Evaluation of large multimodal models as a gRPC service.

This top level is the light client: ``from lmms_eval_grpc import EvalClient`` brings in grpc and protobuf, nothing else.
Names resolve on first use, so that workers, which never talk gRPC, do not pay for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmms_eval_grpc.client import (
        AsyncEvalClient,
        Credentials,
        EvalClient,
        EvalServiceError,
        InvalidRequest,
        JobFailed,
        JobNotFound,
        QueueFull,
        ServerUnavailable,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncEvalClient",
    "Credentials",
    "EvalClient",
    "EvalServiceError",
    "InvalidRequest",
    "JobFailed",
    "JobNotFound",
    "QueueFull",
    "ServerUnavailable",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("lmms_eval_grpc.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
