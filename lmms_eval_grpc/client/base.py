"""What the sync and the asyncio client have in common: their settings, and what is decided from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

from lmms_eval_grpc.client import dictionaries, notebook
from lmms_eval_grpc.client.address import Address, parse_address
from lmms_eval_grpc.client.credentials import Credentials
from lmms_eval_grpc.client.errors import JobFailed, ServerUnavailable
from lmms_eval_grpc.client.streams import Reconnection
from lmms_eval_grpc.client.token import Token, find_token
from lmms_eval_grpc.v1 import job_pb2 as messages

READY_POLL = 0.2
"""Seconds between questions whether a server that answers takes jobs yet."""
_DEFAULT_TIMEOUT = 30.0
"""Seconds for a unary call."""
_MISSED_HEARTBEATS = 3
"""A watch that is silent for this many heartbeat intervals is taken for dead."""


class PagedRequest(Protocol):
    """A request for one page of a list."""

    page_token: str


class PagedResponse(Protocol):
    """One page of a list."""

    next_page_token: str


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's settings, checked."""

    address: Address
    credentials: Credentials
    call_timeout: float | None
    """Seconds that a unary call may take. None: no bound."""
    heartbeat_interval: float
    """Seconds."""
    reconnect_timeout: float | None
    """Seconds. None: no bound."""
    token: Token

    @property
    def silence_limit(self) -> float:
        """Seconds after which a silent watch is taken for dead."""
        return _MISSED_HEARTBEATS * self.heartbeat_interval

    def reconnection(self, what: str, timeout: float | None = None) -> Reconnection:
        """When `what` ("watching job …") is tried again after a break."""
        return Reconnection(what, address=str(self.address), give_up_after=self.reconnect_timeout, timeout=timeout)


class ClientBase:
    """Settings of a client. A client can be pickled: what travels is its settings, and the copy dials for itself."""

    def __init__(
        self,
        base_url: str = "http://localhost:50051",
        timeout: float | None = None,
        *,
        heartbeat_interval: float = 15.0,
        reconnect_timeout: float | None = 300.0,
        credentials: Credentials | None = None,
        token: str | None = None,
        token_file: str | PathLike[str] | None = None,
        plaintext_token: bool | None = None,
    ) -> None:
        """Checks the settings. Nothing is dialled before the first call.

        Args:
            base_url: The server: host:port, http://host:port, grpc://host:port or unix:/path/to/socket, in the clear;
                grpcs://host:port or https://host:port with TLS; host:port too when the credentials are for TLS.
            timeout: Seconds that one call may take, its retries included. None: 30. Streams have no such bound.
            heartbeat_interval: Seconds of silence after which the server shows that a watch is alive, 1 to 300. After
                three missed ones the client connects anew.
            reconnect_timeout: Seconds of trying to reconnect a stream after which ServerUnavailable is raised. None:
                it never is.
            credentials: What to trust and to show with TLS. None: what LMMS_EVAL_GRPC_CA, _CERT, _KEY and _SERVER_NAME
                in the environment say.
            token: What shows the server who calls, where it asks. It stays out of messages and of `repr`; a client that
                is pickled takes it along.
            token_file: File that holds the token, read at each call. Without token and token_file:
                ``LMMS_EVAL_GRPC_TOKEN``, or the file that ``LMMS_EVAL_GRPC_TOKEN_FILE`` names.
            plaintext_token: Send the token also where the connection is neither encrypted nor within this machine.
                None: only if ``LMMS_EVAL_GRPC_PLAINTEXT_TOKEN`` is 1.

        Raises:
            ValueError: an argument is not as described.
        """
        for name, value in (("timeout", timeout), ("reconnect_timeout", reconnect_timeout)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value!r}: use a number of seconds greater than 0, or None")
        if not 1 <= heartbeat_interval <= 300:
            raise ValueError(f"heartbeat_interval={heartbeat_interval!r}: use 1 to 300 seconds")
        notebook.show_messages_as_html()
        self.base_url = base_url
        self.timeout = timeout
        call_timeout = _DEFAULT_TIMEOUT if timeout is None else timeout
        self._given = {
            "credentials": credentials,
            "token": token,
            "token_file": token_file,
            "plaintext_token": plaintext_token,
        }
        address, used = _dial_by(base_url, credentials)
        self._settings = Settings(
            address,
            used,
            None if math.isinf(call_timeout) else call_timeout,
            heartbeat_interval,
            reconnect_timeout,
            find_token(address, token, token_file, plaintext_token),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        keywords = {
            "heartbeat_interval": self._settings.heartbeat_interval,
            "reconnect_timeout": self._settings.reconnect_timeout,
            **self._given,
        }
        return _rebuild, (type(self), self.base_url, self.timeout, keywords)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"


def _dial_by(base_url: str, given: Credentials | None) -> tuple[Address, Credentials]:
    """Where to dial, and with what."""
    credentials = Credentials.from_environment() if given is None else given
    address = parse_address(base_url, encrypt=credentials.asks_for_tls)
    if address.is_encrypted:
        credentials.check()
    elif given is not None and given.asks_for_tls:
        raise ValueError(
            f"address {base_url!r}: is in the clear, where the credentials {given} have no use; leave them out, or use"
            " grpcs://host:port"
        )
    return address, credentials


def outcome(job: messages.Job) -> dict[str, Any]:
    """What waiting for a job that has ended comes to: its dictionary, or JobFailed."""
    told = dictionaries.job(job)
    if job.state == messages.JOB_STATE_FAILED:
        raise JobFailed(told)
    return told


def not_ready(address: Address, timeout: float, cause: ServerUnavailable | None) -> ServerUnavailable:
    """The error of a server that did not get ready in time, with what was met when it was last asked."""
    return ServerUnavailable(
        f"the server at {address} was not ready within {timeout:g} s; see that it runs and what its log says"
        + (f" ({cause})" if cause is not None else ""),
        code="UNAVAILABLE",
    )


def _rebuild(kind: type[ClientBase], base_url: str, timeout: float | None, keywords: dict[str, Any]) -> ClientBase:
    return kind(base_url, timeout, **keywords)
