"""Why a request failed: whether that may pass, stays, or is wrong for all requests alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openai

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.openai.options import ServerAddress
from lmms_eval_grpc.engine.retry_after import retry_after

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERLOADED = frozenset({429, 503, 529})
_FILTERED = frozenset({"content_filter", "content_policy_violation"})
_FILTER_WORDS = re.compile(r"moderation|flagged|content.?(filter|policy|management)|safety", re.IGNORECASE)
"""In the message of a 403, which gateways give to inputs that they withhold as well as to keys."""
_NO_MODEL = frozenset({"model_not_found", "DeploymentNotFound"})


@dataclass(eq=False)
class RequestFailure(Exception):
    """One attempt at one request failed."""

    word: str
    """``RATE_LIMITED``, ``TIMEOUT``, ``UNREACHABLE``, ``SERVER_ERROR``, ``MALFORMED_RESPONSE``, ``CONTENT_FILTER``,
    ``FORBIDDEN`` or ``REFUSED``."""
    message: str
    transient: bool = False
    overloaded: bool = False
    """Whether fewer requests at once would help."""
    retry_after: float = 0.0
    """Seconds to wait, where the server says so."""
    status: int | None = None
    parameter: str | None = None
    """The one that the server does not take, where it says so."""

    def __str__(self) -> str:
        return f"{self.word}: {self.message}"


def classify(error: Exception, address: ServerAddress) -> RequestFailure:
    """What an exception of the SDK means.

    Raises :class:`EvaluationError` for what no other request will get past either: ``AUTHENTICATION_FAILED``,
    ``UNKNOWN_SERVED_MODEL``, ``QUOTA_EXHAUSTED``.
    """
    where = address.readable
    if isinstance(error, RequestFailure):
        return error
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return RequestFailure("TIMEOUT", f"{where} gave no answer in time", transient=True, overloaded=True)
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error, address)
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        return RequestFailure("MALFORMED_RESPONSE", f"{where} sent no chat completion: {error}", transient=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        message = address.censor(f"{where} cannot be reached: {type(cause).__name__}: {cause}")
        return RequestFailure("UNREACHABLE", message, transient=True, overloaded=True)
    raise error


def _classify_status(error: openai.APIStatusError, address: ServerAddress) -> RequestFailure:
    status = error.status_code
    body: Any = error.body if isinstance(error.body, dict) else {}
    code = str(body.get("code") or "")
    detail = address.censor(" ".join(str(body.get("message") or error.response.text).split())[:500])
    message = f"{address.readable} answered {status}: {detail}"
    if status == 401:
        raise authentication_failed(message) from error
    if status == 404 or code in _NO_MODEL:
        raise EvaluationError("UNKNOWN_SERVED_MODEL", f"{message}; check the model's name and base_url") from error
    if code == "insufficient_quota":  # told by the same status as being too fast, and no waiting helps
        raise EvaluationError("QUOTA_EXHAUSTED", message) from error
    if status not in _TRANSIENT:
        word = "CONTENT_FILTER" if _is_filtered(status, code, body) else "FORBIDDEN" if status == 403 else "REFUSED"
        return RequestFailure(word, message, status=status, parameter=body.get("param"))
    return RequestFailure(
        "RATE_LIMITED" if status == 429 else "TIMEOUT" if status in (408, 504) else "SERVER_ERROR",
        message,
        transient=True,
        overloaded=status in _OVERLOADED or status >= 500 or status == 408,
        retry_after=retry_after(error.response.headers.get),
        status=status,
    )


def authentication_failed(message: str) -> EvaluationError:
    """What ends the evaluation where the server does not let us in."""
    return EvaluationError("AUTHENTICATION_FAILED", f"{message}; check the key and what it permits")


def _is_filtered(status: int, code: str, body: Mapping[str, Any]) -> bool:
    """Whether a refusal is of what this request says, and not of who asks."""
    inner = body.get("innererror")
    if code in _FILTERED or (isinstance(inner, dict) and inner.get("code") == "ResponsibleAIPolicyViolation"):
        return True
    return status == 403 and _FILTER_WORDS.search(str(body.get("message") or "")) is not None
