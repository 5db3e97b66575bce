"""Every method that the server has, from the descriptors, and the codes that it may answer to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from lmms_eval_grpc.server.auth.table import MINIMUM_ROLES
from lmms_eval_grpc.server.principals import Role
from lmms_eval_grpc.v1 import admin_service_pb2, evaluation_service_pb2

Code = grpc.StatusCode

_FILES = (evaluation_service_pb2, admin_service_pb2, health_pb2, reflection_pb2)
_ALWAYS = {Code.OK, Code.INVALID_ARGUMENT}
_OF_A_JOB = {Code.NOT_FOUND}
_SUBMITTING = {Code.ALREADY_EXISTS, Code.RESOURCE_EXHAUSTED}
_MORE: dict[str, set[grpc.StatusCode]] = {
    "Evaluate": _SUBMITTING,
    "MergeCheckpoint": _SUBMITTING,
    "GetJob": _OF_A_JOB,
    "CancelJob": _OF_A_JOB,
    "SetJobPriority": {*_OF_A_JOB, Code.FAILED_PRECONDITION},
    "WatchJob": {*_OF_A_JOB, Code.OUT_OF_RANGE},
    "StreamSamples": {*_OF_A_JOB, Code.FAILED_PRECONDITION},
    "StreamLogs": _OF_A_JOB,
    "Drain": {Code.FAILED_PRECONDITION},
    "Check": {Code.NOT_FOUND},
}
"""Codes of a healthy server beside OK and INVALID_ARGUMENT. Nobody's are INTERNAL, UNKNOWN, UNAVAILABLE."""

_NOT_FOR_ALL = ("Evaluate", "MergeCheckpoint", "CancelJob")
"""Methods that depend on the request, too: on its priority, and on whose job it is about."""

UNKNOWN_METHODS = ("/lmms_eval_grpc.v1.EvaluationService/Missing", "/missing.Service/Evaluate", "/", "/x")
"""Paths that lead nowhere: UNIMPLEMENTED."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method."""

    path: str
    request: Descriptor
    response: Descriptor
    takes_many: bool
    gives_many: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def codes(self, role: Role | None = None) -> set[grpc.StatusCode]:
        """What it may answer to a caller who neither gave up nor sent too much.

        ``role``: that of the caller's credentials, NONE without valid ones. None: the server asks for none, and has no
        limits that matter.
        """
        usual = _ALWAYS | _MORE.get(self.name, set())
        if role is None:
            return usual
        if self.gives_many:
            usual |= {Code.RESOURCE_EXHAUSTED}
        needed = MINIMUM_ROLES[self.path]
        if needed is Role.NONE:
            return usual
        if role is Role.NONE:
            return {Code.UNAUTHENTICATED}
        if role < needed:
            return {Code.PERMISSION_DENIED}
        return usual | {Code.PERMISSION_DENIED} if role < Role.ADMIN and self.name in _NOT_FOR_ALL else usual

    def make(self) -> Message:
        """An empty request."""
        return message_factory.GetMessageClass(self.request)()

    def read(self, data: bytes) -> Any:
        """A response. Raises ``google.protobuf.message.DecodeError``."""
        return message_factory.GetMessageClass(self.response).FromString(data)


def _methods() -> tuple[Method, ...]:
    found = []
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                names = [service.full_name]
                if "reflection" in service.full_name:
                    names.append(service.full_name.replace("v1alpha", "v1"))
                found += [
                    Method(
                        f"/{name}/{method.name}",
                        method.input_type,
                        method.output_type,
                        method.client_streaming,
                        method.server_streaming,
                    )
                    for name in names
                ]
    return tuple(found)


METHODS = _methods()
BY_PATH = {method.path: method for method in METHODS}
BY_NAME = {method.name: method for method in METHODS}
"""Of methods with one name (reflection's two versions) the last."""
