"""Where the server is: the address forms that the clients accept, and what grpc dials for each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

_FORMS = "host:port, http://host:port, grpc://host:port, unix:/path/to/socket, or grpcs://host:port for TLS"
_SCHEMES = {"http": False, "grpc": False, "https": True, "grpcs": True}
"""Whether the connection is encrypted, by scheme."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, ready for grpc."""

    target: str
    """The name that grpc dials."""
    is_local: bool
    """Whether it is loopback or a socket file, which no proxy can reach."""
    is_encrypted: bool = False
    """Whether TLS is spoken, with a server whose certificate is checked."""

    def __str__(self) -> str:
        return f"grpcs://{self.target}" if self.is_encrypted else self.target


def parse_address(text: str, *, encrypt: bool = False) -> Address:
    """Reads ``host:port``, ``http://host:port``, ``grpc://host:port``, ``unix:/path``, or for TLS ``grpcs://host:port``
    or ``https://host:port``.

    Args:
        text: the address.
        encrypt: whether ``host:port``, which leaves that open, means TLS.

    Raises:
        ValueError: it is none of these.
    """
    if not isinstance(text, str):
        raise ValueError(f"the address must be a string such as 'localhost:50051', not {text!r}")
    if text.startswith("unix:"):
        path = "/" + text.removeprefix("unix:").lstrip("/")
        if not text.startswith("unix:/") or path == "/":
            raise ValueError(f"address {text!r}: a socket needs an absolute path, as in unix:/run/lmms-eval.sock")
        return Address(f"unix:{path}", is_local=True)
    scheme, separator, _ = text.partition("://")
    if separator and scheme.lower() not in _SCHEMES:
        raise ValueError(f"address {text!r}: {scheme}:// is not supported; use {_FORMS}")
    parts = urlsplit(text if separator else f"grpc://{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"address {text!r}: {error}; use {_FORMS}") from None
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"address {text!r}: only a host and a port are allowed; use {_FORMS}")
    if not host or not port:
        missing = "host" if not host else "port"
        raise ValueError(f"address {text!r} has no {missing}; use {_FORMS} (the server's default port is 50051)")
    name = f"[{host}]" if ":" in host else host
    return Address(f"{name}:{port}", _is_loopback(host), _SCHEMES[scheme.lower()] if separator else encrypt)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
