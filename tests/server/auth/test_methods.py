"""Every method, with every kind of credentials."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import lmms_eval_grpc.v1
from lmms_eval_grpc.server.auth.access_file import remove_entries
from lmms_eval_grpc.server.auth.table import AUDITED, MINIMUM_ROLES
from lmms_eval_grpc.server.principals import Role
from tests.scheduler.doubles import PATIENCE
from tests.server.conftest import Guarded, NewRig, detail
from tests.support.access import bearer

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


def served() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every method that a server has, by its path."""
    names = [info.name for info in pkgutil.iter_modules(lmms_eval_grpc.v1.__path__) if info.name.endswith("_pb2")]
    own: list[Any] = [importlib.import_module(f"lmms_eval_grpc.v1.{name}") for name in names]
    for module in (*own, health_pb2, reflection_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method
                if service.full_name == REFLECTION:
                    yield f"/grpc.reflection.v1.ServerReflection/{method.name}", method


def needed(path: str) -> Role:
    """The role that a method is meant to need."""
    _, service, name = path.split("/")
    if service == "grpc.health.v1.Health":
        return Role.NONE
    if service == "lmms_eval_grpc.v1.AdminService":
        return Role.ADMIN
    return Role.SUBMIT if name in ("Evaluate", "MergeCheckpoint", "CancelJob") else Role.READ


# Draining stops the server, so it comes last.
METHODS = sorted(served(), key=lambda pair: pair[0].endswith("/Drain"))


async def outcome(
    channel: grpc.aio.Channel, path: str, method: MethodDescriptor, metadata: tuple[tuple[str, str], ...], data: bytes
) -> grpc.aio.AioRpcError | None:
    """The error that a call ends with; None: it succeeds, or begins to."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call: Any = getattr(channel, kind)(
        path, request_serializer=lambda data: data, response_deserializer=GetMessageClass(method.output_type).FromString
    )
    while True:
        request = iter([data]) if method.client_streaming else data
        running = call(request, metadata=metadata, timeout=PATIENCE)
        try:
            await (running.read() if method.server_streaming else running)
        except grpc.aio.AioRpcError as error:
            # grpc.aio's client loses the status of a stream that the server ends while the client still writes.
            if not (method.client_streaming and error.details() == "Internal error from Core"):
                return error
        else:
            return None
        finally:
            running.cancel()


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert dict(MINIMUM_ROLES) == {path: needed(path) for path, _ in METHODS}
    assert len(METHODS) >= 22
    assert {path.rpartition("/")[2] for path in AUDITED} == {
        "Evaluate",
        "MergeCheckpoint",
        "CancelJob",
        "PauseQueue",
        "ResumeQueue",
        "Drain",
        "SetJobPriority",
        "CollectGarbage",
    }


@pytest.mark.parametrize("held", [Role.READ, Role.SUBMIT, Role.ADMIN])
async def test_a_role_may_call_what_it_is_for_and_nothing_more(guarded: Guarded, held: Role) -> None:
    metadata = guarded.give("caller", held)
    for path, method in METHODS:
        error = await outcome(guarded.rig.channel, path, method, metadata, b"")
        if held >= needed(path):
            assert error is None or error.code() not in REFUSALS, (path, error)
            continue
        assert error is not None, path
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED, (path, error)
        name, word = path.rpartition("/")[2], needed(path).word
        assert error.details() == f"{name} needs the role {word}, and caller has the role {held.word}"
        info = detail(error, "ErrorInfo")
        assert (info.reason, dict(info.metadata)) == ("PERMISSION_DENIED", {"permission": word})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", "this server asks who you are"),
        ("wrong", "the token is not in the server's access list"),
        ("expired", "the token of past expired at"),
        ("revoked", "the token is not in the server's access list"),
        ("other scheme", "cannot be understood"),
        ("empty", "cannot be understood"),
        ("twice", "cannot be understood"),
    ],
)
async def test_without_valid_credentials_nothing_but_health_can_be_called(
    guarded: Guarded, kind: str, says: str
) -> None:
    root = guarded.tokens["root"]
    wrong = root[:-1] + ("a" if root[-1] != "a" else "b")
    past = guarded.give("past", Role.ADMIN, valid_for=-1)
    gone = guarded.give("gone", Role.ADMIN)
    metadata = {
        "none": (),
        "wrong": bearer(wrong),
        "expired": past,
        "revoked": gone,
        "other scheme": (("authorization", f"Basic {root}"),),
        "empty": (("authorization", "Bearer "),),
        "twice": (*bearer(root), *bearer(root)),
    }[kind]
    if kind == "revoked":
        path, method = next(pair for pair in METHODS if pair[0].endswith("/QueueStatus"))
        assert await outcome(guarded.rig.channel, path, method, metadata, b"") is None
        remove_entries(guarded.file, "gone")
    for path, method in METHODS:
        # Not a message of any type: who may not call learns nothing about what was sent.
        for data in (b"", b"\xff\xff\xff"):
            error = await outcome(guarded.rig.channel, path, method, metadata, data)
            if needed(path) is Role.NONE:
                assert error is None or error.code() is not grpc.StatusCode.UNAUTHENTICATED, (path, error)
                continue
            assert error is not None, path
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, (path, error)
            assert says in (error.details() or ""), path
            assert detail(error, "ErrorInfo").reason == "UNAUTHENTICATED"
            assert not any(token in str(error) for token in (root, wrong, *guarded.tokens.values()))


async def test_a_request_that_is_no_message_is_told_to_those_who_may_call(guarded: Guarded) -> None:
    path, method = next(pair for pair in METHODS if pair[0].endswith("/GetJob"))
    error = await outcome(guarded.rig.channel, path, method, guarded.as_("rita"), b"\xff\xff\xff")
    assert error is not None
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a message of its type" in (error.details() or "")


async def test_where_nobody_is_asked_everybody_may_call_everything(new_rig: NewRig) -> None:
    rig = await new_rig()
    for path, method in METHODS:
        error = await outcome(rig.channel, path, method, bearer("leg_whatever"), b"")
        assert error is None or error.code() not in REFUSALS, (path, error)
