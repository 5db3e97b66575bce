"""Secrets are kept out of everything that is written: recognised by the names of keys and by what they look like."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

REDACTED = "[redacted]"

SHORTEST_KNOWN = 6
"""Characters of a secret that is looked for in other texts; a shorter one would be found where it is none."""

_SECRET_KEYS = frozenset(
    {
        *("token", "secret", "password", "passwd", "passphrase", "auth", "authorization", "credential", "credentials"),
        *("api_key", "apikey", "access_key", "secret_key", "private_key", "account_key", "connection_string", "sas"),
    }
)
_SECRET_ENDINGS = (
    *(
        "_token",
        "_secret",
        "password",
        "passwd",
        "passphrase",
        "authorization",
        "cookie",
        "_credential",
        "_credentials",
    ),
    *("api_key", "apikey", "access_key", "secret_key", "private_key", "account_key", "_credentials"),
    *("api_keys", "apikeys", "access_keys", "secret_keys", "private_keys", "passwords"),
)
_TOKENS_OF_TEXT = frozenset(
    {
        f"{kind}_token"
        for kind in (
            *("bos", "eos", "pad", "unk", "sep", "cls", "mask", "start", "end", "begin", "stop", "tool"),
            *("image", "images", "video", "audio", "vision", "image_start", "image_end", "video_start", "video_end"),
            *("decoder_start", "forced_bos", "forced_eos", "boi", "eoi", "im_start", "im_end", "think", "new", "next"),
        )
    }
)
"""Names that end like those of secrets and mean pieces of text."""
_HEADERS = frozenset({"headers", "extra_headers", "default_headers"})
"""Keys of mappings in which more names stand for secrets."""
_SECRET_HEADER_ENDINGS = ("_key", "_auth", "_signature", "_session")
_NO_SECRETS = frozenset({"EMPTY", "NONE", "NULL", "DUMMY"})
"""What stands where a server wants no key, in upper case."""

_ASSIGNMENT = re.compile(r"(?P<name>\b[A-Za-z][\w-]*)(?P<is>\s*=(?!=)\s*)(?P<value>[^\s,;&'\"]+)")
_VALUES = re.compile(
    r"""(?x) (?<![\w-]) (?:
      hf_[A-Za-z0-9]{10,}
    | sk-[A-Za-z0-9_-]{16,}
    | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,}
    | xox[abprs]-[\w-]{10,} | AIza[\w-]{30,} | (?:AKIA|ASIA)[A-Z0-9]{16}
    | eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+
    )"""
)
_SCHEMES = re.compile(r"\b(?P<scheme>Bearer|Basic)\s+(?P<value>[\w.~+/=-]{8,})")
_WORDS = re.compile(r"(?:[A-Z]{1,20}|[A-Za-z][a-z]{0,19})(?:[-/.](?:[A-Z]{1,20}|[A-Za-z]?[a-z]{0,19}))*")
"""What follows ``Basic`` or ``Bearer`` in prose."""
_LOGIN = re.compile(r"(?<=://)(?P<value>[^/\s@]+)(?=@)")
"""Of an address: ``user:password@``."""
_SIGNATURE = re.compile(
    r"(?i)(?P<name>[?&](?:sig|signature|x-amz-signature|x-amz-security-token|key)=)(?P<value>[^&\s]+)"
)


def redact(value: Any, known: Iterable[str] = ()) -> Any:
    """Plain JSON with its secrets replaced: those under keys that name one or assigned in text, those that look like
    one, logins in addresses, and ``known`` ones wherever they are."""
    return _redact(value, sorted({*known}, key=len, reverse=True))


def hide(text: str, known: Iterable[str] = ()) -> str:
    """``text`` without the secrets that are ``known`` or look like one. Quicker than :func:`redact`, which looks at
    assignments too."""
    for secret in known:
        text = text.replace(secret, REDACTED)
    text = _VALUES.sub(REDACTED, text)
    if "://" in text:
        text = _LOGIN.sub(REDACTED, text)
    if "earer" in text or "asic" in text:
        text = _SCHEMES.sub(lambda match: f"{match['scheme']} {REDACTED}" if _is_credential(match) else match[0], text)
    return text


def hide_in_json(text: str, known: Iterable[str]) -> str:
    """A line of JSON without the secrets that are ``known``, in whatever strings they are. Keys and numbers stay."""
    known = tuple(known)
    forms = (json.dumps(secret, ensure_ascii=ascii)[1:-1] for secret in known for ascii in (False, True))
    if not any(form in text for form in forms):
        return text
    return json.dumps(_hide_known(json.loads(text), known), ensure_ascii=False)


def secret_values(value: Any) -> tuple[str, ...]:
    """The secrets in plain JSON that are long enough to be looked for elsewhere, the longest first; also as Python and
    JSON quote them."""
    plain = {text for text in _secrets(value) if len(text) >= SHORTEST_KNOWN and text.upper() not in _NO_SECRETS}
    found = {form for text in plain for form in (text, repr(text)[1:-1], json.dumps(text)[1:-1])}
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def _is_credential(match: re.Match[str]) -> bool:
    """Whether it is no sentence that a scheme's name stands in: "Basic mathematics"."""
    if _WORDS.fullmatch(match["value"]):
        return False
    if match["scheme"] == "Bearer":
        return True
    try:
        return b":" in base64.b64decode(match["value"], validate=True)
    except ValueError:
        return False


def redact_command(arguments: Sequence[str]) -> list[str]:
    """A command line with the values of options that name a secret replaced, as ``--hf-token VALUE``."""
    shown: list[str] = []
    for argument, option in zip(arguments, ("", *arguments), strict=False):
        names_secret = option.startswith("--") and _is_secret(option[2:])
        shown.append(REDACTED if names_secret and not argument.startswith("--") else redact(argument))
    return shown


def _hide_known(value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _hide_known(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide_known(item, known) for item in value]
    if isinstance(value, str):
        for secret in known:
            value = value.replace(secret, REDACTED)
    return value


def _redact(value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, str):
        text = hide(value, known)
        if "=" in text:
            text = _SIGNATURE.sub(rf"\g<name>{REDACTED}", _ASSIGNMENT.sub(_redact_assignment, text))
        return text
    if isinstance(value, Mapping):
        return {key: _redact_item(key, item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(item, known) for item in value]
    return value


def _redact_item(key: Any, item: Any, known: Sequence[str]) -> Any:
    if _is_secret(key):
        return _hide_all(item)
    if _are_headers(key, item):
        return {
            name: _hide_all(text) if _is_secret_header(name) else _redact(text, known) for name, text in item.items()
        }
    return _redact(item, known)


def _redact_assignment(match: re.Match[str]) -> str:
    return f"{match['name']}{match['is']}{REDACTED}" if _is_secret(match["name"]) else match[0]


def _secrets(value: Any) -> Iterator[str]:
    """Every text that :func:`redact` replaces."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if _is_secret(key):
                yield from _all_parts(item)
            elif _are_headers(key, item):
                for name, text in item.items():
                    yield from _all_parts(text) if _is_secret_header(name) else _secrets(text)
            else:
                yield from _secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item)
    elif isinstance(value, str):
        yield from (match[0] for match in _VALUES.finditer(value))
        yield from (match["value"] for match in _SCHEMES.finditer(value) if _is_credential(match))
        for pattern in (_LOGIN, _SIGNATURE):
            yield from (match["value"] for match in pattern.finditer(value))
        yield from (match["value"] for match in _ASSIGNMENT.finditer(value) if _is_secret(match["name"]))
        # Of a login the password alone may turn up elsewhere.
        yield from (match["value"].partition(":")[2] for match in _LOGIN.finditer(value))


def _hide_all(value: Any) -> Any:
    """What a secret's key stands over, every text in it replaced. ``token: true`` tells to use the stored token, and is
    no secret."""
    if isinstance(value, Mapping):
        return {key: _hide_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hide_all(item) for item in value]
    return REDACTED if isinstance(value, str) and value else value


def _all_parts(value: Any) -> Iterator[str]:
    """The texts that :func:`_hide_all` replaces, each also without the word in front of it: ``Bearer SECRET``."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _all_parts(item)
    elif isinstance(value, str):
        yield value
        yield value.strip().rpartition(" ")[2]


def _is_secret(key: Any) -> bool:
    name = str(key).lower().replace("-", "_")
    if name in _TOKENS_OF_TEXT:
        return False
    return name in _SECRET_KEYS or name.endswith(_SECRET_ENDINGS)


def _are_headers(key: Any, item: Any) -> bool:
    return not isinstance(item, str) and isinstance(item, Mapping) and str(key).lower() in _HEADERS


def _is_secret_header(name: Any) -> bool:
    return _is_secret(name) or str(name).lower().replace("-", "_").endswith(_SECRET_HEADER_ENDINGS)
