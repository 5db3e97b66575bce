"""Whether the server could listen where it is to."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.client import EvalClient, EvalServiceError

_LONGEST_SOCKET_PATH = 107
_TIMEOUT = 2.0


def check_port(setup: Setup) -> Iterator[Finding]:
    """Whether the addresses of the server and its metrics are this machine's and free; if not, who answers there."""
    args = setup.args
    if args.unix_socket is not None:
        yield from _check_socket(args.unix_socket.absolute())
    else:
        yield from _check_address("port", args.host.strip("[]"), args.port)
    if args.metrics_port is not None:
        yield from _check_address("metrics port", args.metrics_host.strip("[]"), args.metrics_port)


def _check_address(check: str, host: str, port: int) -> Iterator[Finding]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        yield failure(check, f"host {host!r} is no address: {error}", "use 127.0.0.1, or an address of this machine")
        return
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            yield failure(check, f"{shown} may not be bound by this user", "use a port from 1024 on")
            return
        except OSError as error:
            who = _who_answers(shown) if port else ""
            yield failure(
                check,
                f"{shown} cannot be bound: {error.strerror}{who}",
                f"choose another port (0: any), or stop what listens there (ss -ltnp 'sport = :{port}')",
            )
            return
    yield ok(check, f"{shown} is free" if port else f"any free port of {host}")


def _who_answers(target: str) -> str:
    client = EvalClient(target.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:"), _TIMEOUT)
    with client:
        try:
            server = client.server_info()
        except EvalServiceError as error:
            if error.reason:
                return "; an lmms-eval-grpc server listens there"
            return "; what listens there is no lmms-eval-grpc server, or does not answer"
    return f"; an lmms-eval-grpc server {server.version} listens there"


def _check_socket(path: Path) -> Iterator[Finding]:
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        yield failure("port", f"{path} is longer than {_LONGEST_SOCKET_PATH} bytes", "choose a shorter unix_socket")
        return
    place = next(place for place in path.parents if place.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        yield failure("port", f"{place} cannot be written", "make it writable, or choose another unix_socket")
        return
    if path.exists():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                pass
            else:
                yield failure("port", f"another program listens on {path}", "stop it, or choose another unix_socket")
                return
    yield ok("port", f"{path} is free")
