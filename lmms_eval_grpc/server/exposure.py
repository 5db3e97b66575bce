"""Who can reach a server, and whether it may be started so."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from lmms_eval_grpc.server.settings import ConfigError

if TYPE_CHECKING:
    from lmms_eval_grpc.server.config import ServerArgs

_TLS_SETTINGS = ("tls_cert", "tls_key", "tls_client_ca")


def list_proofs(args: ServerArgs) -> tuple[str, ...]:
    """How callers have to prove who they are, in the words of ``ServerInfo.authentication``; empty: nobody is asked."""
    token = ("token",) if args.access_file is not None else ()
    certificate = ("client_certificate",) if args.tls_client_ca is not None else ()
    return token + certificate


def authenticates_callers(args: ServerArgs) -> bool:
    """Whether only those who prove who they are can call."""
    return bool(list_proofs(args))


def is_exposed(args: ServerArgs) -> bool:
    """Whether other machines can reach the server without encryption, or without proving who they are."""
    if args.unix_socket is not None or is_loopback(args.host):
        return False
    return args.tls_cert is None or not authenticates_callers(args)


def check(args: ServerArgs) -> None:
    """Raises :class:`ConfigError` when TLS is set by halves, or when :func:`is_exposed` and nobody said that it may."""
    _check_tls(args)
    if not is_exposed(args) or args.allow_insecure_remote:
        return
    host = f"{args.sources.get('host', 'host')}: {args.host!r} can be reached from other machines"
    if args.tls_cert is None:
        problem = "this server would talk in the clear: whoever is on the way can read and change everything"
        remedy = "Set tls_cert and tls_key (`lmms-eval-grpc certs init` makes them)"
    else:
        problem = "callers would not have to prove who they are: whoever reaches it can run code here"
        remedy = "Set access_file, so that callers need a token, or tls_client_ca, so that they need a certificate"
    raise ConfigError(
        f"{host}, and {problem}. {remedy}, or listen on 127.0.0.1 (with an ssh tunnel from elsewhere)."
        " Where all of the network is trusted, set allow_insecure_remote"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def means_any_address(host: str) -> bool:
    """Whether who listens on ``host`` listens on every address of the machine."""
    try:
        return not host or ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _check_tls(args: ServerArgs) -> None:
    given = [name for name in _TLS_SETTINGS if getattr(args, name) is not None]
    if not given:
        return
    source = args.sources.get(given[0], given[0])
    if args.unix_socket is not None:
        raise ConfigError(
            f"{source}: has no effect with unix_socket, which only this user can open; leave one of the two out"
        )
    missing = [name for name in ("tls_cert", "tls_key") if name not in given]
    if missing:
        raise ConfigError(
            f"{source}: needs {' and '.join(missing)} too; TLS takes a certificate (tls_cert) and its private key"
            " (tls_key)"
        )
