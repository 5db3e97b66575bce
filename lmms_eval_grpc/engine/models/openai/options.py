"""What ``model_args`` and the environment say together about a server and the requests to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.record.redact import REDACTED

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "EMPTY"
"""Sent to servers for which there is no key: the protocol wants one, and most local servers do not look at it."""

_SHORTEST_SECRET = 8
"""Characters; shorter values of headers are settings."""
_COMPLETIONS = "/chat/completions"
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where the server is and how to be let in."""

    base_url: str
    api_key: str = field(repr=False)
    azure_version: str | None = None
    """Version of Azure's interface; None: not Azure's."""
    trust_env: bool = True
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def readable(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def censor(self, text: str) -> str:
        """``text`` without the key and what headers may hold of the kind, which servers quote in their errors."""
        words = [value.rpartition(" ")[2] for value in self.headers.values()]  # not Bearer and the like
        secrets = [word for word in words if len(word) >= _SHORTEST_SECRET]
        secrets += [] if self.api_key == NO_KEY else [self.api_key]
        for secret in secrets:
            text = text.replace(secret, REDACTED)
        return text


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The arguments of :func:`~lmms_eval_grpc.engine.models.openai.arguments.request_arguments`, checked."""

    max_new_tokens: int
    system_prompt: str | None
    nframes: int | None
    fps: float | None
    max_frames: int | None
    max_pixels: int | None
    min_pixels: int | None
    is_qwen3_vl: bool
    pass_video_url: bool
    max_size_in_mb: float
    enable_thinking_kwarg: bool | None
    extra_body: Mapping[str, Any] | None
    timeout: float
    max_retries: int
    retry_backoff_s: float
    num_concurrent: int | None
    adaptive_concurrency: bool
    adaptive_min_concurrency: int
    adaptive_max_concurrency: int
    adaptive_decrease_factor: float
    image_format: str = "PNG"
    jpeg_quality: int = 85

    @property
    def most_concurrent(self) -> int:
        return self.adaptive_max_concurrency if self.num_concurrent is None else self.num_concurrent

    def identity(self) -> dict[str, Any]:
        """Those that answers depend on."""
        names = ("max_new_tokens", "system_prompt", "nframes", "fps", "max_frames", "max_pixels", "min_pixels",
                 "is_qwen3_vl", "pass_video_url", "max_size_in_mb", "enable_thinking_kwarg",
                 "image_format")  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        found["extra_body"] = dict(self.extra_body or {})
        if self.image_format == "JPEG":
            found["jpeg_quality"] = self.jpeg_quality
        return found


_POSITIVE = ("max_new_tokens", "nframes", "fps", "max_frames", "max_pixels", "min_pixels", "max_size_in_mb", "timeout",
             "max_retries", "num_concurrent", "adaptive_min_concurrency", "adaptive_max_concurrency")  # fmt: skip


def read_requests(values: Mapping[str, Any]) -> RequestOptions:
    """The request options among ``values``. Raises :class:`EvaluationError` ``INVALID_MODEL_ARGS``."""
    names = RequestOptions.__slots__
    given = {name: values[name] for name in names if name in values}
    for name in _POSITIVE:
        if given[name] is not None and given[name] <= 0:
            raise EvaluationError("INVALID_MODEL_ARGS", f"{name} must be positive, but is {given[name]!r}")
    if not 0 < given["adaptive_decrease_factor"] < 1:
        raise EvaluationError(
            "INVALID_MODEL_ARGS",
            f"adaptive_decrease_factor must lie between 0 and 1, but is {given['adaptive_decrease_factor']!r}",
        )
    if given["retry_backoff_s"] < 0:
        raise EvaluationError(
            "INVALID_MODEL_ARGS", f"retry_backoff_s must not be negative, but is {given['retry_backoff_s']!r}"
        )
    given["system_prompt"] = _read_system_prompt(given["system_prompt"])
    given["image_format"] = _read_image_format()
    given["jpeg_quality"] = _read_quality()
    return RequestOptions(**given)


def read_address(values: Mapping[str, Any]) -> ServerAddress:
    """Where the server is. Raises :class:`EvaluationError` ``INVALID_MODEL_ARGS`` where something is missing."""
    version = None
    if values["azure_openai"]:
        key = values["api_key"] or _first("AZURE_OPENAI_API_KEY", "AZURE_API_KEY")
        names = ("AZURE_OPENAI_API_BASE", "AZURE_OPENAI_ENDPOINT", "AZURE_ENDPOINT")
        base = values["base_url"] or _first(*names)
        version = _first("AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION", "API_VERSION") or "2024-10-21"
        missing = None if base and key else "AZURE_OPENAI_API_BASE" if key else "AZURE_OPENAI_API_KEY"
    else:
        key = values["api_key"] or _first("OPENAI_API_KEY")
        base = values["base_url"] or _first("OPENAI_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_URL") or OPENAI_URL
        missing = "OPENAI_API_KEY" if not key and base.rstrip("/") == OPENAI_URL else None
    if missing:
        raise EvaluationError(
            "INVALID_MODEL_ARGS",
            f"the environment variable {missing} is not set where the evaluation runs; set it, or give api_key and"
            " base_url in model_args",
        )
    base = unquote(str(base)).rstrip("/").removesuffix(_COMPLETIONS)
    if urlsplit(base).scheme not in ("http", "https"):
        raise EvaluationError("INVALID_MODEL_ARGS", f"base_url must begin with http:// or https://, but is {base!r}")
    headers = {str(name): str(value) for name, value in (values["extra_headers"] or {}).items()}
    return ServerAddress(base, key or NO_KEY, version, values["httpx_trust_env"], headers)


def _first(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _read_system_prompt(prompt: str | None) -> str | None:
    try:
        is_file = bool(prompt) and Path(str(prompt)).is_file()
    except OSError:  # too long to be a path
        is_file = False
    return Path(str(prompt)).read_text(encoding="utf-8").strip() if is_file else prompt


def _read_image_format() -> str:
    name = os.environ.get("LMMS_IMAGE_ENCODE_FORMAT", "PNG").upper()
    name = "JPEG" if name == "JPG" else name
    if name not in _IMAGE_FORMATS:
        raise EvaluationError(
            "INVALID_MODEL_ARGS",
            f"the environment variable LMMS_IMAGE_ENCODE_FORMAT must be {' or '.join(_IMAGE_FORMATS)}, not {name!r}",
        )
    return name


def _read_quality() -> int:
    text = os.environ.get("LMMS_IMAGE_JPEG_QUALITY", "85")
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise EvaluationError(
            "INVALID_MODEL_ARGS",
            f"the environment variable LMMS_IMAGE_JPEG_QUALITY must be a number from 1 to 100, not {text!r}",
        )
    return int(text)
