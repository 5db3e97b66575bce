"""Where a server listens, how its connections are protected, and who is at their other end."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio

from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.exposure import is_exposed, means_any_address
from lmms_eval_grpc.server.state_dir import ServerStartError

logger = logging.getLogger(__name__)

_LONGEST_SOCKET_PATH = 107


def channel_options(args: ServerArgs) -> list[tuple[str, int]]:
    """Options of the gRPC server; each is here because its default loses calls or lies."""
    return [
        # By default a second server binds the same port and gets half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", args.max_request_bytes),
        # Clients that ping to keep a quiet watch alive would be cut off for it. They may do so every five seconds.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Dead peers are noticed after a minute instead of two hours.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_concurrent_streams", 1_000),
        # By default calls that are answered but not yet forgotten count as well, so that of a burst on one connection
        # those are refused that take the places of the first thousand.
        ("grpc.http.overload_protection", 0),
        # A burst beyond the default of about a thousand new calls is dropped without a word.
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ]


class Listener:
    """The port or the socket of one server. Must live as long as the server.

    Raises:
        ServerStartError: a certificate, a key or an authority cannot be used.
    """

    def __init__(self, args: ServerArgs) -> None:
        self._args = args
        self._certificate: ServerCertificate | None = None
        if args.tls_cert is not None and args.tls_key is not None:
            self._certificate = ServerCertificate(args.tls_cert, args.tls_key, args.tls_client_ca)

    def open(self, server: grpc.aio.Server, cleanup: AsyncExitStack) -> str:
        """Binds ``server``, and returns its address: ``host:port``, with TLS ``grpcs://host:port``, or ``unix:`` and a
        path.

        Args:
            server: not started yet.
            cleanup: gets what is to be undone after the server's end.

        Raises:
            ServerStartError: the port or the socket cannot be had.
        """
        if self._args.unix_socket is not None:
            return _bind_socket(server, self._args.unix_socket.absolute(), cleanup)
        host = self._args.host.strip("[]")
        wanted = f"{_bracket(host)}:{self._args.port}"
        try:
            if self._certificate is None:
                port = server.add_insecure_port(wanted)
            else:
                port = server.add_secure_port(wanted, self._certificate.credentials)
        except RuntimeError as error:
            raise ServerStartError(
                f"cannot listen on {wanted}: it is taken by another program, or not an address of this machine;"
                " choose another port or host (port 0 takes any free one)"
            ) from error
        if is_exposed(self._args):
            logger.warning(
                "whoever reaches %s:%d can run code here, as allow_insecure_remote says", _bracket(host), port
            )
        if self._certificate is None:
            return f"{_bracket(host)}:{port}"
        return f"grpcs://{_bracket(self._certificate.choose_name(host))}:{port}"


class ServerCertificate:
    """The certificate of a server that runs: read again, for the next connection, when its files have changed.

    Connections that are open go on with what they began with. New files that cannot be used are told in the log, once,
    and what was read before stays in force.

    Args:
        certificate: PEM file, the server's own certificate first.
        key: PEM file with its key.
        client_ca: PEM file with the authorities of the certificates that callers must then show.

    Raises:
        ServerStartError: a file cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        from lmms_eval_grpc.server import certificates  # late: most servers have none

        self._files = certificates.CertificateFiles(certificate, key, client_ca)
        self._state = self._files.state()
        try:
            self._loaded = certificates.load(self._files)
        except certificates.CertificateError as error:
            raise ServerStartError(str(error)) from error
        self._tell()
        self.credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._fetch,  # type: ignore[arg-type]  # its stub forgets None
            require_client_authentication=client_ca is not None,
        )

    def choose_name(self, host: str) -> str:
        """A name for ``host`` by which clients can check the certificate: itself, or, if it means any address, the
        first name that the certificate is for."""
        names = [name for name in self._loaded.names if "*" not in name]
        if means_any_address(host) and names:
            return names[0]
        if not self._loaded.covers(host):
            logger.warning(
                "the certificate is for %s, not for %s: clients that dial %s have to be told another name to check for",
                ", ".join(self._loaded.names) or "no host",
                host,
                host,
            )
        return host

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks, in a thread of its own, at every new connection. None: as before."""
        from lmms_eval_grpc.server import certificates

        state = self._files.state()
        if state == self._state:
            return None
        self._state = state
        try:
            self._loaded = certificates.load(self._files)
        except certificates.CertificateError as error:
            logger.warning("the new certificate files cannot be used, so the old ones stay in force: %s", error)
            return None
        self._tell()
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pairs = [(self._loaded.key, self._loaded.chain)]
        return grpc.ssl_server_certificate_configuration(pairs, root_certificates=self._loaded.client_ca)

    def _tell(self) -> None:
        logger.log(
            logging.WARNING if self._loaded.ends_soon() else logging.INFO,
            "TLS with the certificate in %s for %s, valid until %s%s",
            self._files.certificate,
            ", ".join(self._loaded.names) or "no host",
            self._loaded.not_after.strftime("%Y-%m-%d %H:%M UTC"),
            "" if self._loaded.client_ca is None else "; callers need a certificate",
        )


def certificate_name(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """The name in the certificate that a caller has shown: its common name, or else its first alternative name.

    Args:
        auth_context: what ``context.auth_context()`` returns.

    Returns:
        None: the caller has shown no certificate, or one without a name.
    """
    if b"ssl" not in auth_context.get("transport_security_type", ()):
        return None
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for name in auth_context.get(key, ()):
            try:
                text = name.decode("utf-8").strip()
            except UnicodeDecodeError:
                continue
            if text:
                return text
    return None


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bind_socket(server: grpc.aio.Server, path: Path, cleanup: AsyncExitStack) -> str:
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise ServerStartError(f"unix_socket: {path} is longer than {_LONGEST_SOCKET_PATH} bytes; choose a shorter one")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and _answers(path):
            raise ServerStartError(f"unix_socket: another program listens on {path}; choose another path")
        # From its first moment: whoever connects before the mode is changed stays connected.
        mask = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(mask)
        path.chmod(0o600)
    except (OSError, RuntimeError) as error:
        if isinstance(error, ServerStartError):
            raise
        raise ServerStartError(f"unix_socket: cannot listen on {path}: {error}") from error
    cleanup.callback(path.unlink, missing_ok=True)
    return f"unix:{path}"


def _answers(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
