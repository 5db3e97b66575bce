"""What most likely keeps a client from connecting, in words, from the words of grpc."""

from __future__ import annotations

_TLS_HINTS = (
    ("WRONG_VERSION_NUMBER", "it does not speak TLS: use grpc://host:port"),
    ("certificate has expired", "its certificate has expired: have it renewed"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "no authority that this client trusts has signed its certificate: name the file of the one that has (ca)",
    ),
    (
        "Hostname Verification Check failed",
        "its certificate is for another name: dial it by that name, or say which name to expect (server_name)",
    ),
    (
        "Socket closed",
        "it may want a certificate from an authority that it knows: name the files of one and of its key (cert, key)",
    ),
)
"""Part of what grpc says of a connection that did not come about, and what that means when TLS is spoken."""
_CLEAR_HINTS = (("Socket closed", "it may speak TLS: use grpcs://host:port"),)
_NO_CONNECTION = "failed to connect to all addresses"


def explain(text: str, *, encrypted: bool) -> str | None:
    """The likely reason and the remedy; None where ``text`` speaks for itself, as "Connection refused" does.

    Args:
        text: what grpc says about a call that was UNAVAILABLE.
        encrypted: whether the client speaks TLS.
    """
    if _NO_CONNECTION not in text:
        return None
    return next((hint for part, hint in (_TLS_HINTS if encrypted else _CLEAR_HINTS) if part in text), None)
