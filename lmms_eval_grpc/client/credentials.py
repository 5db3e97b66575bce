"""What a client trusts, and what it shows of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Self

import grpc

ENVIRONMENT_PREFIX = "LMMS_EVAL_GRPC_"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files and names for TLS. All are optional; they are read when the client dials.

    Example:
        >>> EvalClient("grpcs://eval.example:50051", credentials=Credentials(ca="ca.pem", cert="me.pem", key="me.key"))
    """

    ca: str | PathLike[str] | None = None
    """PEM file with the authorities that may have signed the server's certificate. None: those that grpc comes with."""
    cert: str | PathLike[str] | None = None
    """PEM file with the client's own certificate, for servers that ask for one."""
    key: str | PathLike[str] | None = None
    """PEM file with the private key of `cert`, without a passphrase."""
    server_name: str | None = None
    """The name that the server's certificate must be for. None: the host of the address."""

    def __post_init__(self) -> None:
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None:
                # Absolute: a pickled client may be used from another folder.
                object.__setattr__(self, name, str(Path(path).expanduser().absolute()))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **given: str | None) -> Self:
        """What `given` says, and for the rest the variables ``LMMS_EVAL_GRPC_CA``, ``_CERT``, ``_KEY`` and
        ``_SERVER_NAME`` of `environ` (None: of this process)."""
        variables = os.environ if environ is None else environ
        found = {item.name: variables.get(ENVIRONMENT_PREFIX + item.name.upper()) or None for item in fields(cls)}
        return cls(**{**found, **{name: value for name, value in given.items() if value is not None}})

    @property
    def asks_for_tls(self) -> bool:
        """Whether they make no sense without TLS."""
        return any(value is not None for value in (self.ca, self.cert, self.key, self.server_name))

    def check(self) -> None:
        """Raises ValueError where a file cannot be used, naming it and the remedy."""
        if (self.cert is None) != (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise ValueError(f"{given}={getattr(self, given)!r}: needs {missing} too; they are used together")
        if self.ca is None and self.cert is None:
            return
        import ssl  # late: most clients need none

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            ca = self._read("ca")
            _attempt(
                lambda: context.load_verify_locations(cadata=ca.decode("ascii")),
                f"ca={self.ca!r}: holds no certificate in PEM; name a file with -----BEGIN CERTIFICATE-----",
            )
        if self.cert is not None:
            cert, key = str(self.cert), str(self.key)
            self._read("cert")
            self._read("key")
            _attempt(
                lambda: context.load_cert_chain(cert, key, _refuse_passphrase),
                f"cert={cert!r}, key={key!r}: are not a certificate and its private key in PEM, the key without a"
                " passphrase; name two files that were made together",
            )

    def make(self) -> grpc.ChannelCredentials:
        """The same for grpc. Raises ValueError where a file cannot be read."""
        return grpc.ssl_channel_credentials(
            self._read("ca") if self.ca is not None else None,
            self._read("key") if self.key is not None else None,
            self._read("cert") if self.cert is not None else None,
        )

    def _read(self, name: str) -> bytes:
        path = getattr(self, name)
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"{name}={path!r}: cannot be read ({error.strerror}); mend the path") from error


def _attempt(load: Callable[[], None], complaint: str) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ValueError(complaint) from error


def _refuse_passphrase() -> str:
    raise ValueError("no passphrase is asked for")
