"""The checks of a server that runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import grpc

from lmms_eval_grpc import __version__
from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.client import EvalClient, EvalServiceError
from lmms_eval_grpc.v1 import catalog_pb2, evaluation_service_pb2

_SERVING = 1
"""``HealthCheckResponse.SERVING``."""
_CALLS = 5
_SLOW = 1.0
_SKEW = 5.0
_LISTENING = 10.0


def check_running(client: EvalClient, address: str) -> Iterator[Finding]:
    """Whether the server is there, serves, knows us, and is of our version, in step with our clock, and quick."""
    try:
        serving = client._transport.health_status() == _SERVING
    except EvalServiceError as error:
        yield _refused(error)
        return
    yield ok("reachable", f"a server answers at {address}")
    yield ok("health", "it takes jobs") if serving else _why_not_serving(client)
    try:
        answer = _ask(client)
    except EvalServiceError as error:
        yield _refused(error)
        return
    yield from _check_caller(answer)
    yield from _check_version(answer.server)
    yield from _check_devices(answer.server)
    yield from _check_latency(client)
    yield from _check_clock(client)


def _why_not_serving(client: EvalClient) -> Finding:
    try:
        trouble = client.get_queue_status()["trouble"]
    except EvalServiceError:
        trouble = ""  # The next call tells.
    if trouble:
        remedy = "mend that on the server's machine: seconds later the server takes jobs again by itself"
        return failure("health", f"it takes no jobs: {trouble}", remedy)
    return warning("health", "it takes no jobs now", "wait, or see why: lmms-eval-grpc queue")


def _ask(client: EvalClient) -> evaluation_service_pb2.GetServerInfoResponse:
    """The whole answer, of which ``server_info`` gives a part."""
    return client._transport.unary(lambda stub: stub.GetServerInfo, evaluation_service_pb2.GetServerInfoRequest())


def _refused(error: EvalServiceError) -> Finding:
    if error.code == "UNAUTHENTICATED":
        return failure("caller", str(error), "give credentials that the server knows")
    if error.code == "UNIMPLEMENTED":
        return failure("reachable", "what answers is no lmms-eval-grpc server", "correct the address")
    remedy = "see that it runs, that its log shows no error, and that no proxy or firewall is between"
    return failure("reachable", str(error), remedy)


def _check_caller(answer: evaluation_service_pb2.GetServerInfoResponse) -> Iterator[Finding]:
    ways = ", ".join(answer.server.authentication)
    role = catalog_pb2.Role.Name(answer.caller.role).removeprefix("ROLE_").lower()
    if ways:
        yield ok("caller", f"the server knows you as {answer.caller.name} ({role}), by {ways}")
    else:
        yield ok("caller", f"the server asks for no credentials: everybody may do everything ({role})")


def _check_version(server: catalog_pb2.ServerInfo) -> Iterator[Finding]:
    if server.version == __version__:
        yield ok("version", f"{server.version} on both sides")
    else:
        yield warning(
            "version",
            f"the server is {server.version}, this is {__version__}",
            "old and new understand each other, but new features need both: install the same release",
        )


def _check_devices(server: catalog_pb2.ServerInfo) -> Iterator[Finding]:
    devices = [slot.device for slot in server.slots]
    if devices:
        yield ok("devices", f"{', '.join(devices)}; {server.jobs_started} jobs started")
    else:
        yield warning("devices", "the server has none now, so that jobs wait", "see its log, or its Ray cluster")


def _check_latency(client: EvalClient) -> Iterator[Finding]:
    taken = []
    for _ in range(_CALLS):
        began = time.monotonic()
        try:
            _ask(client)
        except EvalServiceError as error:
            yield warning("latency", f"a call failed: {error}", "see the server's log")
            return
        taken.append(time.monotonic() - began)
    middle = statistics.median(taken)
    told = f"{1000 * middle:.1f} ms for a call (the median of {_CALLS})"
    if middle > _SLOW:
        yield warning("latency", told, "see what the server's machine is busy with, and the network between")
    else:
        yield ok("latency", told)


def _check_clock(client: EvalClient) -> Iterator[Finding]:
    """A heartbeat, which comes after a second of silence, tells the server's time."""
    request = evaluation_service_pb2.WatchQueueRequest()
    request.heartbeat_interval.FromSeconds(1)
    call = client._transport.connected().watches.WatchQueue(request, timeout=_LISTENING)
    try:
        for message in call:
            if message.HasField("heartbeat"):
                skew = time.time() - message.heartbeat.server_time.ToNanoseconds() / 1e9
                break
        else:
            skew = None
    except grpc.RpcError:
        skew = None
    finally:
        call.cancel()
    if skew is None:
        yield warning("clock", "the server's time is not known: its queue is too busy, or closed", "try again later")
    elif abs(skew) > _SKEW:
        order = "ahead of" if skew > 0 else "behind"
        yield warning(
            "clock", f"this machine's clock is {abs(skew):.0f} s {order} the server's", "keep both set by NTP"
        )
    else:
        yield ok("clock", f"in step with the server's, but for {abs(skew):.1f} s")
