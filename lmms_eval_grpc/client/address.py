"""Where the server is: the address forms that the clients accept, and what grpc dials for each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

_FORMS = "host:port, http://host:port, grpc://host:port or unix:/path/to/socket"


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, ready for grpc."""

    target: str
    """The name that grpc dials."""
    is_local: bool
    """Whether it is loopback or a socket file, which no proxy can reach."""


def parse_address(text: str) -> Address:
    """Reads ``host:port``, ``http://host:port``, ``grpc://host:port`` or ``unix:/path``.

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
    if separator and scheme.lower() not in ("http", "grpc"):
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
    return Address(f"{name}:{port}", is_local=_is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
