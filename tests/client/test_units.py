"""The sync client over grpcio-testing's channel, which has no wire and shows exactly what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import grpc_testing
import pytest

from lmms_eval_grpc import EvalClient, EvalServiceError, ServerUnavailable
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2 as messages

SERVICE = service.DESCRIPTOR.services_by_name["EvaluationService"]


class Wire:
    """A client whose calls are answered by hand, on a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = grpc_testing.strict_fake_time(0)
        self.channel = grpc_testing.channel([SERVICE], clock)
        monkeypatch.setattr(grpc, "insecure_channel", lambda target, options=(): self.channel)
        self.client = EvalClient("localhost:1")
        self._threads = ThreadPoolExecutor(1)

    def call(self, method: str, *arguments: Any, **named: Any) -> Future[Any]:
        return self._threads.submit(getattr(self.client, method), *arguments, **named)

    def take(self, method: str) -> tuple[Any, Any]:
        """The request that the client sent, and the call to answer."""
        _, request, call = self.channel.take_unary_unary(SERVICE.methods_by_name[method])
        return request, call


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    made = Wire(monkeypatch)
    yield made
    made._threads.shutdown()


def test_a_submission_always_carries_a_request_id_of_its_own(wire: Wire) -> None:
    keys = set()
    for number in range(2):
        answer = wire.call("evaluate", "idefics3", ["digits"], {"pretrained": "a/b"}, limit=2)
        request, call = wire.take("Evaluate")
        keys.add(request.request_id)
        assert request.spec.limit.count == 2
        job = messages.Job(job_id=str(number), state=messages.JOB_STATE_QUEUED, queue_position=number)
        call.terminate(service.EvaluateResponse(job=job), (), grpc.StatusCode.OK, "")
        answered = answer.result(timeout=30)
        assert (answered["job_id"], answered["position_in_queue"]) == (str(number), number)
    assert len(keys) == 2
    assert all(keys)


@pytest.mark.parametrize(
    ("code", "error"),
    [(grpc.StatusCode.NOT_FOUND, EvalServiceError), (grpc.StatusCode.UNAVAILABLE, ServerUnavailable)],
)
def test_a_status_without_details_still_becomes_a_typed_error(wire: Wire, code: Any, error: type[Exception]) -> None:
    answer = wire.call("get_job", "j")
    _, call = wire.take("GetJob")
    call.terminate(service.GetJobResponse(), (), code, "no such thing")
    with pytest.raises(error, match="no such thing"):
        answer.result(timeout=30)
