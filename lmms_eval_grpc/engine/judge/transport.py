"""One request to an OpenAI-compatible chat interface, and the retries around it.

Written on the standard library, so that a judge needs no package beside those of the base install.
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lmms_eval_grpc.engine.judge.endpoints import Endpoint
from lmms_eval_grpc.engine.judge.failures import JudgeError
from lmms_eval_grpc.engine.judge.protocol import ServerConfig
from lmms_eval_grpc.engine.retry_after import retry_after

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_PAUSE = 0.5
_LONGEST_WISH = 60.0
"""Seconds; a judge that asks for a longer pause is tried again after these."""
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Completion:
    """A judge's reply."""

    content: str
    model: str
    usage: dict[str, Any]
    raw: dict[str, Any]


def complete(
    endpoint: Endpoint,
    payload: Mapping[str, Any],
    config: ServerConfig,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> Completion:
    """The reply to ``payload``, tried up to ``config.num_retries`` times where the failure may pass.

    The pause before another attempt doubles from half a second up to ``config.retry_delay``, varied at random so that
    many askers do not come back together; a ``Retry-After`` of the judge is kept to. Raises JudgeError.
    """
    attempts = max(1, config.num_retries)
    for attempt in range(1, attempts + 1):
        try:
            return _attempt(endpoint, payload, config.timeout)
        except JudgeError as error:
            if not error.transient:
                raise
            if attempt == attempts:
                message = f"{error.message} (after {attempts} attempts)"
                raise JudgeError(error.reason, message, transient=True) from error
            longest = min(config.retry_delay, _FIRST_PAUSE * 2 ** (attempt - 1))
            pause(max(longest * random.uniform(0.5, 1.0), min(error.retry_after, _LONGEST_WISH)))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _attempt(endpoint: Endpoint, payload: Mapping[str, Any], timeout: float) -> Completion:
    where = _readable(endpoint.url)
    if urlsplit(endpoint.url).scheme not in ("http", "https"):
        raise JudgeError("NOT_CONFIGURED", f"the judge's address must begin with http:// or https://, but is {where}")
    request = urllib.request.Request(
        endpoint.url,
        data=json.dumps(payload).encode(),
        headers={"Content-Type": "application/json", **endpoint.headers},
        method="POST",
    )
    try:
        body = _exchange(request, timeout)
    except urllib.error.HTTPError as error:
        raise _status_error(error, where) from error
    except TimeoutError as error:
        raise JudgeError("TIMEOUT", f"{where} gave no answer within {timeout:g} seconds", transient=True) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            message = f"{where} could not be reached within {timeout:g} seconds"
            raise JudgeError("TIMEOUT", message, transient=True) from error
        raise JudgeError("UNAVAILABLE", f"{where} could not be asked: {error}", transient=True) from error
    return _read_completion(body, where, str(payload.get("model", "")))


def _exchange(request: urllib.request.Request, timeout: float) -> bytes:
    """The reply's body. A judge that sends a byte now and then is cut off too."""
    deadline = time.monotonic() + timeout
    parts = []
    with urllib.request.urlopen(request, timeout=timeout) as response:
        while part := response.read1(_CHUNK):
            parts.append(part)
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"".join(parts), response.length)
    return b"".join(parts)


def _status_error(error: urllib.error.HTTPError, where: str) -> JudgeError:
    try:
        body = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        body = ""
    detail = " ".join(body.split())[:300]
    message = f"{where} answered {error.code} {error.reason}: {detail}"
    # Out of credit is told by the same status as out of breath, and no waiting helps.
    if error.code not in _TRANSIENT or "insufficient_quota" in body:
        hint = "; check the key" if error.code in (401, 403) else ""
        return JudgeError("REFUSED", message + hint)
    reason = "RATE_LIMITED" if error.code == 429 else "UNAVAILABLE"
    return JudgeError(reason, message, transient=True, retry_after=retry_after(error.headers.get))


def _read_completion(body: bytes, where: str, asked: str) -> Completion:
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        content, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        message = f"{where} sent no chat completion, but {body[:200].decode('utf-8', 'replace')!r}"
        raise JudgeError("MALFORMED_RESPONSE", message, transient=True) from error
    if finish == "content_filter":
        raise JudgeError("REFUSED", f"{where} refused the question by its content filter")
    if not isinstance(content, str) or not content.strip():
        message = f"{where} sent an empty answer (finish_reason {finish!r})"
        raise JudgeError("MALFORMED_RESPONSE", message, transient=True)
    usage = reply.get("usage")
    return Completion(
        content.strip(), str(reply.get("model") or asked), usage if isinstance(usage, dict) else {}, reply
    )


def _readable(url: str) -> str:
    """``url`` without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
