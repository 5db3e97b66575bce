"""Tokens for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from lmms_eval_grpc.server.auth.access_file import add_entry
from lmms_eval_grpc.server.auth.entries import Entry, hash_token, new_token
from lmms_eval_grpc.server.principals import Role


def give_token(file: Path, name: str, role: Role, *, valid_for: float | None = None) -> str:
    """A new token in an access file. ``valid_for``: seconds, also negative; None: for ever."""
    token, now = new_token(), datetime.now(UTC)
    expires = None if valid_for is None else now + timedelta(seconds=valid_for)
    add_entry(file, Entry("token", name, role, now, hash_token(token), expires), another=True)
    return token


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that shows a token."""
    return (("authorization", f"Bearer {token}"),)
