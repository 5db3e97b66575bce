"""One line of the access list: a token, known by its hash, or the name in a client certificate."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from lmms_eval_grpc.server.principals import RESERVED_NAMES, Role

Kind = Literal["token", "certificate"]

TOKEN_PREFIX = "leg_"
"""Every token starts so: programs that look for secrets in code and logs can find them."""

ROLES = {role.word: role for role in Role if role is not Role.NONE}

_TOKEN_BYTES = 32
_KEYS = {"kind", "name", "role", "sha256", "created", "expires"}
_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LONGEST_CERTIFICATE_NAME = 255
_HASH = re.compile(r"[0-9a-f]{64}")
_ID_DIGITS = 8


class BadEntry(ValueError):
    """An entry, or the file that holds it, is not as it should be. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the access list says of one credential."""

    kind: Kind
    name: str
    """Of the principal."""
    role: Role
    created: datetime
    sha256: str = ""
    """Of a token: the hash of all of its text, in hexadecimal."""
    expires: datetime | None = None
    """When it stops to be valid. None: never."""

    @property
    def id(self) -> str:
        """Tells the tokens of one principal apart. Says nothing about the token. Empty for certificates."""
        return self.sha256[:_ID_DIGITS]

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two entries the same credential."""
        return (self.kind, self.name, self.sha256)

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires

    def to_line(self) -> str:
        """The line of the file that says this."""
        line: dict[str, str] = {"kind": self.kind, "name": self.name, "role": self.role.word}
        if self.sha256:
            line["sha256"] = self.sha256
        line["created"] = self.created.isoformat(timespec="seconds")
        if self.expires is not None:
            line["expires"] = self.expires.isoformat(timespec="seconds")
        return json.dumps(line, ensure_ascii=False)


def new_token() -> str:
    """A token nobody can guess: 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def hash_token(token: str) -> str:
    """What of a token is kept. Plain SHA-256 is enough for 256 random bits: there is nothing to guess, so neither salt
    nor a slow function would make guessing any harder."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_name(name: str, kind: Kind) -> None:
    """Raises BadEntry when a credential of this kind cannot have the name."""
    if name in RESERVED_NAMES:
        raise BadEntry(f"name: {name!r} is what the server calls those who show no credentials; choose another")
    if kind == "token" and not _TOKEN_NAME.fullmatch(name):
        raise BadEntry(
            f"name: {name!r} must be 1 to 64 letters, digits, '.', '_', '-' or '@', and start with a letter or a digit"
        )
    if not name.isprintable() or not 1 <= len(name) <= _LONGEST_CERTIFICATE_NAME:
        raise BadEntry(f"name: {name!r} must be 1 to {_LONGEST_CERTIFICATE_NAME} printable characters")


def parse_line(text: str) -> Entry:
    """Reads what :meth:`Entry.to_line` writes. Raises BadEntry; its message never has a hash in it."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        raise BadEntry("is not a JSON object, as lmms-eval-grpc token create writes them") from None
    if not isinstance(line, dict) or not all(isinstance(value, str) for value in line.values()):
        raise BadEntry("is not a JSON object of texts; write it anew with lmms-eval-grpc token create")
    # A misspelt "expires" must not make a token that never does.
    if unknown := sorted(set(line) - _KEYS):
        raise BadEntry(f"has the unknown key {unknown[0]!r}; there are {', '.join(sorted(_KEYS))}")
    kind = _one_of(line, "kind", {"token": "token", "certificate": "certificate"})
    name = line.get("name", "")
    check_name(name, kind)
    sha256 = line.get("sha256", "")
    if (kind == "token") != bool(_HASH.fullmatch(sha256)) or (kind == "certificate" and sha256):
        raise BadEntry("sha256: a token has one, of 64 hexadecimal digits, and a certificate has none")
    created = _read_time(line, "created")
    if created is None:
        raise BadEntry("created: not set; write a time such as 2026-01-31T12:00:00+00:00")
    return Entry(kind, name, _one_of(line, "role", ROLES), created, sha256, _read_time(line, "expires"))


def _one_of(line: dict[str, str], key: str, known: dict[str, Any]) -> Any:
    value = line.get(key, "")
    if value not in known:
        raise BadEntry(f"{key}: {value!r} is not one of {', '.join(known)}")
    return known[value]


def _read_time(line: dict[str, str], key: str) -> datetime | None:
    if key not in line:
        return None
    try:
        time = datetime.fromisoformat(line[key])
    except ValueError:
        raise BadEntry(f"{key}: {line[key]!r} is not a time such as 2026-01-31T12:00:00+00:00") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
