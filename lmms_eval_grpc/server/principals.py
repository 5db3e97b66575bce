"""Who calls, and what they may do."""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass


class Role(enum.IntEnum):
    """What a principal may do. Each role includes those before it."""

    NONE = 0
    """Nothing that is not open to everybody."""
    READ = 1
    """See everything."""
    SUBMIT = 2
    """Submit jobs, and cancel one's own."""
    ADMIN = 3
    """Cancel anybody's jobs, and run the server."""

    @property
    def word(self) -> str:
        """The role's name as people write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller."""

    name: str
    """Of its token or its client certificate."""
    role: Role


ANONYMOUS = Principal("anonymous", Role.ADMIN)
"""Everybody, where the server asks for no credentials."""

UNKNOWN = Principal("unknown", Role.NONE)
"""Somebody who has not shown who they are, where the server asks for credentials."""

RESERVED_NAMES = (ANONYMOUS.name, UNKNOWN.name)
"""Names that no token and no certificate stands for."""

# The default may nothing: a call that nobody has looked at is not an administrator's.
_current: ContextVar[Principal] = ContextVar("principal", default=UNKNOWN)


def current_principal() -> Principal:
    """Who makes the call that is being handled."""
    return _current.get()


def set_principal(principal: Principal) -> None:
    """Notes who makes the call that this task handles: each call is a task of its own."""
    _current.set(principal)
