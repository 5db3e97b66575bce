"""Where a judge lives and how to knock: addresses and keys from the environment, in lmms-eval's names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lmms_eval_grpc.engine.judge.failures import JudgeError

_COMPLETIONS = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One judge's interface."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Holds the key, and is therefore never printed."""


def _openai(model: str) -> Endpoint:
    """``OPENAI_API_KEY``; the address is ``OPENAI_API_URL``, ``OPENAI_API_BASE`` or ``OPENAI_BASE_URL``."""
    key = _required("OPENAI_API_KEY")
    base = _first("OPENAI_API_URL", "OPENAI_API_BASE", "OPENAI_BASE_URL") or "https://api.openai.com/v1"
    return Endpoint(_completions(base), {"Authorization": f"Bearer {key}"})


def _azure(model: str) -> Endpoint:
    """``AZURE_API_KEY`` and ``AZURE_ENDPOINT`` (or the same with ``AZURE_OPENAI_``); ``API_VERSION``. The model's name
    is the deployment's."""
    key = _first("AZURE_API_KEY", "AZURE_OPENAI_API_KEY") or _required("AZURE_API_KEY")
    base = _first("AZURE_ENDPOINT", "AZURE_OPENAI_ENDPOINT") or _required("AZURE_ENDPOINT")
    version = os.environ.get("API_VERSION") or "2024-02-15-preview"
    url = f"{base.rstrip('/')}/openai/deployments/{model}{_COMPLETIONS}?api-version={version}"
    return Endpoint(url, {"api-key": key})


def _local(model: str) -> Endpoint:
    """``LLM_JUDGE_URL``, without a key."""
    return Endpoint(_completions(os.environ.get("LLM_JUDGE_URL") or f"http://localhost:8000/v1{_COMPLETIONS}"))


PROVIDERS: Mapping[str, Callable[[str], Endpoint]] = {
    "openai": _openai,
    "async_openai": _openai,
    "azure": _azure,
    "async_azure": _azure,
    "local": _local,
}
"""By provider: from a model's name to where it is. Raises JudgeError ``NOT_CONFIGURED``."""


def _completions(base: str) -> str:
    trimmed = base.rstrip("/")
    return trimmed if trimmed.endswith(_COMPLETIONS) else trimmed + _COMPLETIONS


def _first(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise JudgeError(
            "NOT_CONFIGURED", f"the judge needs the environment variable {name}; set it where the evaluation runs"
        )
    return value
