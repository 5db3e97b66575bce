"""``lmms_eval.azure_openai_compat``, which tasks import and no release of lmms-eval has: a client for Azure OpenAI."""

from __future__ import annotations

import os
from typing import Any

_ENDPOINT, _KEY, _MODEL = "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_DEPLOYMENT"


def has_endpoint_support() -> bool:
    """Whether the environment says where the endpoint is and has a key for it."""
    return bool(os.environ.get(_ENDPOINT) and os.environ.get(_KEY))


def build_client(model: str | None = None) -> tuple[Any, str]:
    """A client and the deployment to ask. Raises RuntimeError when the environment lacks what it takes."""
    deployment = model or os.environ.get(_MODEL)
    if not has_endpoint_support() or not deployment:
        raise RuntimeError(f"this task asks a judge on Azure OpenAI; set {_ENDPOINT}, {_KEY} and {_MODEL}")
    from openai import AzureOpenAI  # only such tasks need it

    version = os.environ.get("AZURE_OPENAI_API_VERSION", "2024-10-21")
    client = AzureOpenAI(azure_endpoint=os.environ[_ENDPOINT], api_key=os.environ[_KEY], api_version=version)
    return client, deployment
