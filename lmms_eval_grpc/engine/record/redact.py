"""Secrets are kept out of everything that is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

REDACTED = "[redacted]"

_SECRET_KEYS = frozenset(
    {"token", "hf_token", "api_key", "client_secret", "huggingface_hub_token", "huggingfacehub_api_token"}
)
_SECRET_ENDINGS = ("api_key", "_token", "_secret", "password", "authorization", "cookie")
_ASSIGNMENT = re.compile(r"(\b[\w-]*(?:api_key|_token|_secret|password|\btoken)\s*=\s*)[^\s,;&]+", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{10,}")
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
"""Of an address: ``user:password@``."""


def redact(value: Any) -> Any:
    """Plain JSON with its secrets replaced: those under keys that name one or assigned in text, tokens of the hub, and
    logins in addresses."""
    if isinstance(value, Mapping):
        return {key: REDACTED if _is_secret(key) and _holds_text(item) else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, str):
        return _LOGIN.sub(REDACTED, _HUB_TOKEN.sub(REDACTED, _ASSIGNMENT.sub(rf"\g<1>{REDACTED}", value)))
    return value


def redact_command(arguments: Sequence[str]) -> list[str]:
    """A command line with the values of options that name a secret replaced, as ``--hf-token VALUE``."""
    shown: list[str] = []
    for argument, option in zip(arguments, ("", *arguments), strict=False):
        names_secret = option.startswith("--") and _is_secret(option[2:])
        shown.append(REDACTED if names_secret and not argument.startswith("--") else redact(argument))
    return shown


def _is_secret(key: Any) -> bool:
    name = str(key).lower().replace("-", "_")
    return name in _SECRET_KEYS or name.endswith(_SECRET_ENDINGS)


def _holds_text(value: Any) -> bool:
    """``token: true`` tells to use the stored token, and is no secret."""
    return isinstance(value, str) and bool(value)
