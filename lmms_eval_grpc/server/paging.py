"""Pages of listings: sizes, opaque tokens, and how much fits into one response."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from lmms_eval_grpc.jobs.errors import InvalidRequest, Violation

MAX_PAGE_BYTES = 3_500_000
"""Every client takes responses of up to 4 MiB without being told to."""

_LARGEST_POSITION = 2**63 - 1
"""That a store can be asked for."""

M = TypeVar("M", bound=Message)


def page_size(asked: int, *, default: int, most: int) -> int:
    """How many entries a page may have: never more than ``most``. Raises InvalidRequest for a negative size."""
    if asked < 0:
        raise InvalidRequest([Violation("page_size", f"{asked} is negative; 0 stands for {default}")])
    return min(asked or default, most)


def make_token(position: str | int, selection: object) -> str:
    """A token to go on after ``position`` of the listing that ``selection`` selects."""
    return base64.urlsafe_b64encode(json.dumps([_digest(selection), position]).encode()).decode().rstrip("=")


def read_token(token: str, selection: object, kind: type[str] | type[int]) -> str | int | None:
    """The position in a token, None for an empty one. Raises InvalidRequest for one that is not of ``selection``."""
    if not token:
        return None
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        digest, position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, ValueError, TypeError, RecursionError):
        digest, position = None, None
    beyond = type(position) is int and not 0 <= position <= _LARGEST_POSITION
    if digest != _digest(selection) or type(position) is not kind or beyond:
        description = "not a next_page_token of this listing; use the same filters on every page, or leave it empty"
        raise InvalidRequest([Violation("page_token", description)])
    return position


def fill(messages: Iterable[M], most: int) -> list[M]:
    """The first ``most`` messages, or fewer when they would not fit into one response; at least one if there is one."""
    page: list[M] = []
    size = 0
    for message in messages:
        size += message.ByteSize() + 8  # Its tag and length.
        if page and size > MAX_PAGE_BYTES:
            break
        page.append(message)
        if len(page) == most:
            break
    return page


def _digest(selection: object) -> str:
    return hashlib.sha256(repr(selection).encode("utf-8", "replace")).hexdigest()[:16]
