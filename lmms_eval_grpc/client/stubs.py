"""One stub for all services of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmms_eval_grpc.v1.admin_service_pb2_grpc import AdminServiceStub
from lmms_eval_grpc.v1.evaluation_service_pb2_grpc import EvaluationServiceStub

if TYPE_CHECKING:
    from lmms_eval_grpc.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from lmms_eval_grpc.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub

    class AsyncStub(EvaluationServiceAsyncStub, AdminServiceAsyncStub):
        """For type checkers only: at run time one stub serves both kinds of channel."""


class Stub(EvaluationServiceStub, AdminServiceStub):
    """The methods of all services, over one channel."""

    def __init__(self, channel: Any) -> None:
        EvaluationServiceStub.__init__(self, channel)
        AdminServiceStub.__init__(self, channel)
