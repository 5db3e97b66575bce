"""The name in a client certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def certificate_name(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """The common name of the certificate that the client has shown; None: it has shown none."""
    for name in auth_context.get("x509_common_name", ()):
        return name.decode("utf-8", "replace")
    return None
